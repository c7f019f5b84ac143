"""Helpers for tests of migrations, the chaos kit, and the tests that every backend must pass."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from massmigration.testing.chaos import (
    ChaosMixin,
    assert_idempotent,
    assert_resumable,
    assert_survives,
    assert_tolerates,
)
from massmigration.testing.running import run_migration

if TYPE_CHECKING:
    from massmigration.testing.contract import BackendContract

__all__ = [
    "BackendContract",
    "ChaosMixin",
    "assert_idempotent",
    "assert_resumable",
    "assert_survives",
    "assert_tolerates",
    "run_migration",
]

# Before the contract is imported, or pytest could not show the values in failed assertions.
with contextlib.suppress(ImportError):
    import pytest

    pytest.register_assert_rewrite("massmigration.testing.contract")


def __getattr__(name: str) -> Any:
    """Import the contract on first access: projects that test without pytest need the rest of this package."""
    if name != "BackendContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import_module("pytest_django")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"BackendContract needs {error.name}. Install it with: pip install pytest pytest-django"
        ) from error
    return import_module("massmigration.testing.contract").BackendContract
