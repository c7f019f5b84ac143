"""For tests: of adapters, and of projects that have migrations."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from massmigration.testing.running import run_migration

if TYPE_CHECKING:
    from massmigration.testing.contract import BackendContract

__all__ = ["BackendContract", "run_migration"]

# Before anybody imports the contract, or its assertions would not say what they found.
with contextlib.suppress(ImportError):
    import pytest

    pytest.register_assert_rewrite("massmigration.testing.contract")


def __getattr__(name: str) -> Any:
    """Import the contract when it is asked for: projects that test without pytest need the rest."""
    if name != "BackendContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import_module("pytest_django")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"BackendContract needs {error.name}. Install it with: pip install pytest pytest-django"
        ) from error
    return import_module("massmigration.testing.contract").BackendContract
