"""A backend with an action for operators, and a migration that it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from massmigration.backends.base import AdminAction
from massmigration.backends.dummy import DummyBackend
from massmigration.migrations import SimpleMigration
from massmigration.models import MigrationRecord
from testsupport.inline_migrations import register

CALLED: list[tuple[list[str], str]] = []
"""The keys and the actor of each call of the action."""


def look(records: Sequence[MigrationRecord], actor: str) -> str:
    CALLED.append(([record.key for record in records], actor))
    return "Two jobs wait."


LOOK = AdminAction(name="look", label="Look at the queue", description="count what waits", call=look)


class Offering(DummyBackend):
    admin_actions = [LOOK]


class Once(SimpleMigration):
    def operation(self, db_alias: str) -> None:
        pass


def offer(settings: Any, monkeypatch: Any) -> None:
    """Let a test's migrations run through a backend that has not been asked for its action yet."""
    CALLED.clear()
    settings.MASSMIGRATION_BACKEND = f"{__name__}.Offering"
    monkeypatch.setattr(Offering, "admin_actions", [LOOK])
    register(monkeypatch, Once)
