"""The pytest plugin of the chaos kit: a fixture, and a marker with its options. pytest finds it by its entry point."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

MARKER = (
    "massmigration_chaos(make_rows=..., oracle=..., db_alias=..., idempotent=...): options of the functions of the "
    "fixture massmigration_chaos"
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", MARKER)


class ChaosKit:
    """The functions of the chaos kit, with the options of the test's marker."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Imported late: pytest loads this module before Django is set up.
        from massmigration import testing

        if not name.startswith("assert_"):
            raise AttributeError(name)
        options = dict(self.options)
        if name != "assert_survives":
            options.pop("idempotent", None)
        return partial(getattr(testing, name), **options)


@pytest.fixture
def massmigration_chaos(request: pytest.FixtureRequest, transactional_db: None) -> ChaosKit:
    """Return `assert_survives` and its parts, on a database that commits. Options come from the marker of this name."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("massmigration_chaos"))):
        options |= marker.kwargs
    return ChaosKit(options)
