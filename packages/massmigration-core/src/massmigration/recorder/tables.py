"""A check that a database has the tables of the records in the form that this version needs."""

from __future__ import annotations

import contextlib

from django.db import DatabaseError, connections, router, transaction

from massmigration.dialects import dialect_of
from massmigration.exceptions import RecordsUnreadable
from massmigration.models import MigrationRecord

PREDECESSORS = frozenset({"is_applied", "has_error"})
"""Columns of the table of django-mass-migration, which has the same name as ours."""


def exist(db_alias: str) -> bool:
    """Return whether `migrate` has created the tables. Document databases need none."""
    return not _problem(db_alias)


def belong(db_alias: str) -> bool:
    """Return whether the tables exist and the routers put them there: another project's may have the same name."""
    return router.allow_migrate_model(db_alias, MigrationRecord) and exist(db_alias)


def require(db_alias: str) -> None:
    """Raise `RecordsUnreadable`, which says what to do, unless the tables exist."""
    if problem := _problem(db_alias):
        raise RecordsUnreadable(f"Database {db_alias!r} {problem}. Run: manage.py migrate --database {db_alias}")


def _problem(db_alias: str) -> str:
    """Return why the records cannot be read, or an empty string."""
    if not dialect_of(db_alias).has_sql or _has_every_column(db_alias):
        return ""
    connection, table = connections[db_alias], MigrationRecord._meta.db_table
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            return "has no tables for mass migrations"
        found = {column.name.lower() for column in connection.introspection.get_table_description(cursor, table)}
    lacking = sorted({str(field.column) for field in MigrationRecord._meta.concrete_fields} - found)
    if lacking and found >= PREDECESSORS:
        return "has the table of django-mass-migration, which migrate converts"
    return f"has tables of mass migrations that lack {', '.join(lacking)}" if lacking else ""


def _has_every_column(db_alias: str) -> bool:
    """Find out with one statement; introspection takes about thirty on SQLite, for each command."""
    connection, meta = connections[db_alias], MigrationRecord._meta
    table = connection.ops.quote_name(meta.db_table)
    # SQLite takes a quoted name for a text if it is no column, unless the table's name is in front of it.
    columns = ", ".join(f"{table}.{connection.ops.quote_name(str(field.column))}" for field in meta.concrete_fields)
    # A statement that fails in a transaction of the caller's must not break it.
    savepoint = contextlib.nullcontext() if connection.get_autocommit() else transaction.atomic(using=db_alias)
    try:
        with savepoint, connection.cursor() as cursor:
            cursor.execute(f"SELECT {columns} FROM {table} WHERE 1 = 0")
    except DatabaseError:
        return False
    return True
