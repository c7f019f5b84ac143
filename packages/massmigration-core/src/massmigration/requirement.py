"""What one piece of code requires: asks whether it is applied, and says what to do if it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connections

from massmigration import record_cache
from massmigration.exceptions import (
    BadMigrationFile,
    MigrationNotFound,
    RecordsUnreadable,
    RequiredMigrationNotApplied,
)
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration.under_test import in_tests


class Requirement:
    """A migration, applied on some databases."""

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

    def is_known_to_be_met(self) -> bool:
        """Whether memory alone can tell that the migration is applied."""
        met_on = self._met_on
        return bool(met_on) and all(record_cache.is_known(self.key, db_alias) for db_alias in met_on)

    def check(self, name: str) -> None:
        """Raise `RequiredMigrationNotApplied`, unless it is met. `name`: of the code that requires it."""
        if self.is_known_to_be_met():
            return
        needed = self._needed()
        if self._skip_in_tests and in_tests():
            return
        problems = [problem for db_alias in needed if (problem := self._problem(db_alias))]
        if problems:
            raise RequiredMigrationNotApplied(f"{name} requires migration {self.key!r}. {'. '.join(problems)}")
        self._met_on = needed

    def _needed(self) -> list[str]:
        """On which databases. Raise for a migration without a usable file, unless it is applied on all of them."""
        try:
            migration = store.get(self.key)
        except (MigrationNotFound, BadMigrationFile) as error:
            return self._needed_without_file(error)
        for db_alias in self._db_aliases:
            migration.check_db_alias(db_alias)
        return self._db_aliases or migration.get_allowed_db_aliases()

    def _needed_without_file(self, error: MigrationNotFound | BadMigrationFile) -> list[str]:
        if self._skip_in_tests and in_tests():
            raise error
        needed = self._db_aliases or list(connections)
        missing = ", ".join(repr(db_alias) for db_alias in needed if self._problem(db_alias))
        if missing and isinstance(error, BadMigrationFile):
            raise error
        if missing:
            raise MigrationNotFound(
                f"{error} Nor has it been applied on database {missing}. Correct the name; or, if its file was "
                "deleted, remove this requirement too, or say with db_aliases where it was applied."
            ) from error
        return needed

    def _problem(self, db_alias: str) -> str:
        """Why the requirement is not met on one database, and what to do; empty if it is."""
        try:
            if record_cache.is_known(self.key, db_alias):
                return ""
            status = record_cache.read_status(self.key, db_alias)
        except RecordsUnreadable as error:
            return str(error)
        if status == Status.APPLIED:
            return ""
        app_label, _, name = self.key.partition(":")
        return (
            f"On database {db_alias!r} it is {status.value if status else 'not run'}, and must be applied. "
            f"Run: manage.py massmigrate {app_label} {name} --database {db_alias}"
        ) + ("" if status else _hint_for_new_database(db_alias))


def _hint_for_new_database(db_alias: str) -> str:
    """Nothing is applied by itself on a new database: no one but its owner knows that there is nothing to change."""
    if MigrationRecord.objects.using(db_alias).exists():
        return ""
    return (
        f". No migration was ever launched on this database. If it is new, apply all of them, which takes moments "
        f"where there are no rows: manage.py massmigrate --database {db_alias}"
    )


def key_of(identifier: str | Sequence[str]) -> str:
    """The key of what names a migration. Raise `MigrationNotFound` for anything else."""
    parts: list[Any] = identifier.split(":") if isinstance(identifier, str) else list(identifier)
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise MigrationNotFound(
            f"{identifier!r} does not name a migration: write (app_label, name) or 'app_label:name'."
        )
    return ":".join(parts)
