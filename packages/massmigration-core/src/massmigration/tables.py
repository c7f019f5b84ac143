"""Says whether a database has the tables of the records."""

from __future__ import annotations

from django.db import connections, router

from massmigration.exceptions import RecordsUnreadable
from massmigration.models import MigrationRecord
from massmigration.stores import is_of_documents


def exist(db_alias: str) -> bool:
    """Whether `migrate` has made them. Databases of documents need none."""
    return (
        is_of_documents(db_alias) or MigrationRecord._meta.db_table in connections[db_alias].introspection.table_names()
    )


def belong(db_alias: str) -> bool:
    """Whether they exist, and the routers have them there: a table of that name may be somebody else's."""
    return router.allow_migrate_model(db_alias, MigrationRecord) and exist(db_alias)


def check(db_alias: str) -> None:
    """Raise `RecordsUnreadable`, which says what to do, unless they exist."""
    if not exist(db_alias):
        raise RecordsUnreadable(
            f"Database {db_alias!r} has no tables for mass migrations. Run: manage.py migrate --database {db_alias}"
        )
