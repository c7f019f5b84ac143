"""Answers questions about a migration, given as an object, on one database."""

from __future__ import annotations

from massmigration import record_cache
from massmigration.definitions.base import BaseMigration
from massmigration.loader import store
from massmigration.recorder import records
from massmigration.states import Status


def get_all_migrations() -> list[BaseMigration]:
    """Every migration of the installed apps, after those that it depends on."""
    return store.all


def migration_is_applied(migration: BaseMigration, db_alias: str) -> bool:
    """Whether it is applied. That it is, is remembered."""
    return record_cache.is_applied(migration.key, db_alias)


def migration_was_started(migration: BaseMigration, db_alias: str) -> bool:
    """Whether it was ever launched, however it went on."""
    return records.get(db_alias, migration.key) is not None


def migration_is_in_progress(migration: BaseMigration, db_alias: str) -> bool:
    """Whether it is queued, running or paused."""
    record = records.get(db_alias, migration.key)
    return record is not None and record.in_progress


def can_start_migration(migration: BaseMigration, db_alias: str) -> bool:
    """Whether it can be launched, or retried: it was never launched, has failed, or was cancelled."""
    record = records.get(db_alias, migration.key)
    return record is None or record.status in (Status.FAILED, Status.CANCELLED)
