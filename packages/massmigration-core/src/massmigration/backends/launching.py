"""Lends migrations the way to their backend: definitions know none."""

from __future__ import annotations

from massmigration.backends import handler
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadBackend


def launch(migration: BaseMigration, db_alias: str) -> None:
    """Call the backend's method that the migration names."""
    migration.check_db_alias(db_alias)
    migration.check_dependencies(db_alias)
    backend = handler.backend_of(migration)
    name = handler.method_of(migration)
    method = getattr(backend, name, None)
    if not callable(method):
        raise BadBackend(
            f"The backend {type(backend).__qualname__} has no method {name!r}, which migration {migration.key!r} "
            "names as its backend_method. Name the backend that has it in the migration's attribute backend."
        )
    method(migration, db_alias)


def connect() -> None:
    """Called when Django's apps are ready. Workers of queues know a backend's tasks from the start."""
    handler.import_backend()
    BaseMigration.launch_through_engine = staticmethod(launch)
    BaseMigration.find_backend = staticmethod(handler.backend_of)
