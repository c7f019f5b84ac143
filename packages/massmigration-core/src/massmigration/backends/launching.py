"""Lends migrations the way to their backend: definitions know none."""

from __future__ import annotations

from massmigration.backends import handler
from massmigration.definitions.base import BaseMigration


def launch(migration: BaseMigration, db_alias: str) -> None:
    """Call the backend's method that the migration names."""
    migration.check_db_alias(db_alias)
    migration.check_dependencies(db_alias)
    backend = handler.backend_of(migration)
    getattr(backend, migration.backend_method or "run_mapper")(migration, db_alias)


def connect() -> None:
    """Called when Django's apps are ready."""
    BaseMigration.launch_through_engine = staticmethod(launch)
