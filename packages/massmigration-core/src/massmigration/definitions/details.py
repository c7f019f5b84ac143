"""The facts and actions that a migration itself adds to pages and commands."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from massmigration import text
from massmigration.exceptions import BadMigrationFile
from massmigration.states import Status

logger = logging.getLogger(__name__)

LEVELS = ("info", "success", "warning", "error")
PERMISSIONS = ("run", "control", "forget")

MAX_NAME = 32
"""The maximum length of an action's name: that of the column of events."""

Value = str | int | float | dt.datetime | dt.timedelta | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detail:
    """A fact about a migration on one database, for operators."""

    label: str
    """What it is, for example "Rows in the change log"."""

    value: Value
    """A text, a number, an aware datetime, a timedelta, or None if it is not known."""

    level: str = "info"
    """How to show it: `info`, `success`, `warning` or `error`."""

    is_sensitive: bool = False
    """Whether only users with the permission to inspect may see it, because it may contain data of rows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MigrationAction:
    """An action of one migration, in addition to the actions that every migration has."""

    name: str
    """An identifier of at most 32 characters: the command's argument and the verb of the action's event."""

    label: str
    """The text of the button, for example "Abort"."""

    description: str
    """What the action does, for the operator who confirms it."""

    call: Callable[[str, str], str | None]
    """Called with the database alias and the actor. Returns a sentence about the result, or None.

    The operator sees the message of an exception that it raises.
    """

    permission: str = "control"
    """The permission that an operator needs: `run`, `control` or `forget`."""

    is_irreversible: bool = False
    """Whether the operator must confirm the action by typing the migration's name."""


class _Migration(Protocol):
    @property
    def key(self) -> str: ...

    def get_details(self, db_alias: str) -> Sequence[Detail]: ...

    def get_actions(self, db_alias: str, status: Status | None) -> Sequence[MigrationAction]: ...


def details_of(migration: _Migration | None, db_alias: str) -> list[Detail]:
    """Return the migration's details. If its code raises, return one detail that says so."""
    if migration is None:
        return []
    try:
        found = list(migration.get_details(db_alias))
        for each in found:
            _check_detail(migration, each)
    except Exception as error:  # the user's code must not prevent an operator from seeing the rest
        logger.error("get_details() of migration %s raised.", migration.key, exc_info=text.logged(error))
        problem = f"get_details() raised {text.line(text.described(error))}"
        return [Detail(label="Details", value=problem, level="error", is_sensitive=True)]
    return found


def actions_of(
    migration: _Migration | None, db_alias: str, status: Status | None, *, reserved: Sequence[str]
) -> list[MigrationAction]:
    """Return the actions that the migration offers with this status. `reserved`: names that they must not have.

    Raise `BadMigrationFile` for an impossible action. Exceptions of the migration's code are raised, too.
    """
    if migration is None:
        return []
    found: list[Any] = list(migration.get_actions(db_alias, status))
    for each in found:
        if not isinstance(each, MigrationAction):
            raise BadMigrationFile(
                f"get_actions() of migration {migration.key!r} returned {text.safe_repr(each)}; it must return a list "
                "of MigrationAction."
            )
        _check_action(migration, each, reserved)
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadMigrationFile(f"Migration {migration.key!r} has several actions named {', '.join(map(repr, twice))}.")
    return found


def json_of(value: Value) -> str | int | float | None:
    """Return a detail's value for JSON: times in ISO 8601, durations in seconds."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, dt.timedelta) else value


def _check_detail(migration: _Migration, given: Any) -> None:
    if not isinstance(given, Detail):
        raise BadMigrationFile(f"It returned {text.safe_repr(given)}; it must return a list of Detail.")
    if given.level not in LEVELS:
        allowed = ", ".join(map(repr, LEVELS))
        raise BadMigrationFile(f"It returned the level {given.level!r}; allowed: {allowed}.")


def _check_action(migration: Any, action: MigrationAction, reserved: Sequence[str]) -> None:
    if not action.name.isidentifier() or len(action.name) > MAX_NAME or action.name in reserved:
        raise BadMigrationFile(
            f"Migration {migration.key!r} has an action named {action.name!r}; a name is an identifier of at most "
            f"{MAX_NAME} characters and not one of {', '.join(reserved)}."
        )
    if action.permission not in PERMISSIONS:
        allowed = ", ".join(map(repr, PERMISSIONS))
        raise BadMigrationFile(
            f"The action {action.name!r} of migration {migration.key!r} has the permission {action.permission!r}; "
            f"allowed: {allowed}."
        )
