"""Migrations that a test defines itself, and how to run them."""

from __future__ import annotations

from typing import Any

from massmigration import api
from massmigration.loader import store
from massmigration.models import FailedObject, MigrationRecord

IMMEDIATE = "massmigration.backends.immediate.ImmediateBackend"


def register(monkeypatch: Any, migration_class: Any, name: str = "9000_adhoc") -> str:
    """Make the loader know a class for the test's duration. Return the migration's key."""
    migration = migration_class("testapp", name)
    monkeypatch.setitem(store.by_key, migration.key, migration)
    return str(migration.key)


def launch(key: str, db_alias: str) -> MigrationRecord:
    """Launch, and return the record as it is afterwards."""
    api.launch(key, db_alias, actor="code:test")
    return MigrationRecord.objects.using(db_alias).get(key=key)


def retry(key: str, db_alias: str) -> MigrationRecord:
    """Retry, and return the record as it is afterwards."""
    api.retry(key, db_alias, actor="code:test")
    return MigrationRecord.objects.using(db_alias).get(key=key)


def unresolved(db_alias: str) -> FailedObject:
    """Return the only failed object that is not resolved."""
    return FailedObject.objects.using(db_alias).get(resolved_at=None)
