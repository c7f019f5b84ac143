"""A requirement of one piece of code: whether it is met, and what to do if it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections

from massmigration import record_cache
from massmigration.conf import is_running_tests
from massmigration.exceptions import (
    BadMigrationFile,
    MigrationNotFound,
    RecordsUnreadable,
    RequiredMigrationNotApplied,
)
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status, command_for


class Requirement:
    """A migration that must be applied on some databases."""

    def __init__(
        self,
        migration_identifier: str | Sequence[str],
        db_aliases: str | Sequence[str] | None = (),
        *,
        skip_in_tests: bool = True,
    ) -> None:
        self.key = key_of(migration_identifier)
        self._db_aliases = [db_aliases] if isinstance(db_aliases, str) else list(db_aliases or ())
        self._skip_in_tests = skip_in_tests
        self._met_on: list[str] = []

    def is_cached_as_met(self) -> bool:
        """Return whether the cache alone shows that the migration is applied."""
        met_on = self._met_on
        return bool(met_on) and all(record_cache.is_known(self.key, db_alias) for db_alias in met_on)

    def check(self, name: str) -> None:
        """Raise `RequiredMigrationNotApplied` unless the requirement is met. `name`: the code's name, for the "
        "message."""
        if self.is_cached_as_met():
            return
        needed = self._needed()
        if self._skip_in_tests and is_running_tests():
            return
        problems = [problem for db_alias in needed if (problem := self._problem(db_alias))]
        if problems:
            raise RequiredMigrationNotApplied(f"{name} requires migration {self.key!r}. {'. '.join(problems)}")
        self._met_on = needed

    def _needed(self) -> list[str]:
        """Return the databases that the migration must be applied on.

        Raise if the migration has no usable file, unless it is applied on all of them.
        """
        try:
            migration = store.get(self.key)
        except (MigrationNotFound, BadMigrationFile) as error:
            return self._needed_without_file(error)
        for db_alias in self._db_aliases:
            migration.check_db_alias(db_alias)
        return self._db_aliases or migration.get_allowed_db_aliases()

    def _needed_without_file(self, error: MigrationNotFound | BadMigrationFile) -> list[str]:
        if self._skip_in_tests and is_running_tests():
            raise error
        needed = self._db_aliases or list(connections)
        missing = ", ".join(repr(db_alias) for db_alias in needed if self._problem(db_alias))
        if missing and isinstance(error, BadMigrationFile):
            raise error
        if missing:
            raise MigrationNotFound(
                f"{error} It is not applied on database {missing} either. Correct the name. If the file was deleted, "
                "remove this requirement, too, or set db_aliases to the databases where the migration was applied."
            ) from error
        return needed

    def _problem(self, db_alias: str) -> str:
        """Return why the requirement is not met on one database and what to do, or an empty string if it is met."""
        try:
            if record_cache.is_known(self.key, db_alias):
                return ""
            status = record_cache.read_status(self.key, db_alias)
        except RecordsUnreadable as error:
            return str(error)
        if status == Status.APPLIED:
            return ""
        app_label, _, name = self.key.partition(":")
        found = f"is {status.value}" if status else "has not been run"
        return (
            f"On database {db_alias!r} it {found}; it must be applied. "
            f"Run: manage.py {command_for(status)} {app_label} {name} --database {db_alias}"
        ) + ("" if status else _hint_for_new_database(db_alias))


def _hint_for_new_database(db_alias: str) -> str:
    """Return a hint if no migration has been launched on the database, which is probably new."""
    if MigrationRecord.objects.using(db_alias).exists():
        return ""
    return (
        f". No migration has been launched on this database. If it is new, apply all migrations, which takes only a "
        f"moment if there are no rows: manage.py massmigrate --database {db_alias}"
    )


def key_of(identifier: str | Sequence[str]) -> str:
    """Return the key of an identifier. Raise `MigrationNotFound` if it does not identify a migration."""
    parts: list[Any] = identifier.split(":") if isinstance(identifier, str) else list(identifier)
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise MigrationNotFound(
            f"{identifier!r} does not identify a migration; it must be (app_label, name) or 'app_label:name'."
        )
    return ":".join(parts)
