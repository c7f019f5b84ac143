"""The tests' databases: created, emptied and dropped."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import connections, transaction
from django.db.backends.signals import connection_created

from testsupport.database_servers import DATABASE_SERVERS

_opened: list[Any] = []


def server_version(alias: str) -> str:
    """Return the server's version; the tests' database need not exist yet."""
    server = DATABASE_SERVERS[alias]
    with server.cursor() as cursor:
        cursor.execute(server.version_query)
        return str(cursor.fetchone()[0]).split()[0]


def create(alias: str) -> None:
    """Create the database of an alias again and migrate it."""
    create_empty(alias)
    call_command("migrate", database=alias, verbosity=0, interactive=False)
    _tables_to_empty(alias)
    # From now on, the connections of all threads are recorded until `empty` closes them.
    connection_created.connect(_remember, dispatch_uid="testsupport.databases")


def create_empty(alias: str) -> None:
    """Create the database of an alias again, without tables."""
    drop(alias)
    if alias in DATABASE_SERVERS:
        with DATABASE_SERVERS[alias].cursor() as cursor:
            DATABASE_SERVERS[alias].create_database(cursor, _name(alias))


def create_copy(alias: str, source: str) -> None:
    """Create the database of an alias again, as a copy of the one with this name, which nobody uses meanwhile."""
    drop(alias)
    if alias in DATABASE_SERVERS:
        with DATABASE_SERVERS[alias].cursor() as cursor:
            DATABASE_SERVERS[alias].copy_database(cursor, source, _name(alias))
    else:
        shutil.copyfile(source, _name(alias))


def drop(alias: str) -> None:
    """Drop the database of an alias, even if there are connections to it."""
    connections[alias].close()
    if alias not in DATABASE_SERVERS:
        file = Path(_name(alias))
        for path in file.parent.glob(file.name + "*"):
            path.unlink()
        return
    server = DATABASE_SERVERS[alias]
    with server.cursor() as cursor:
        server.end_other_sessions(cursor, _name(alias))
        server.drop_database(cursor, _name(alias))


def empty(alias: str) -> None:
    """Close all other connections, and delete every row that `migrate` did not create."""
    connection = connections[alias]
    is_broken = connection.in_atomic_block or not connection.get_autocommit() or not connection.is_usable()
    if is_broken:
        connection.close()
        connection.connect()
    was_shared = close_leaked_connections(alias)
    tables = [connection.ops.quote_name(table) for table in _tables_to_empty(alias)]
    # Constraints are checked at the commit on PostgreSQL and SQLite, and not at all here on MariaDB and MySQL.
    with connection.constraint_checks_disabled(), transaction.atomic(alias), connection.cursor() as cursor:
        # A session that was just ended may still commit: a DELETE waits for it where a SELECT reads what was before.
        for table in tables if was_shared else _those_with_rows(cursor, tables):
            cursor.execute(f"DELETE FROM {table}")


def close_leaked_connections(alias: str) -> bool:
    """End the sessions of other threads and processes, whose locks would block the next test. Return if there were."""
    own = connections[alias]
    leaked = [each for each in _opened if each.alias == alias and each is not own and each.connection is not None]
    _opened[:] = [each for each in _opened if each.alias != alias]
    ended = 0
    if alias in DATABASE_SERVERS:
        with own.cursor() as cursor:
            ended = DATABASE_SERVERS[alias].end_other_sessions(cursor, _name(alias))
    for connection in leaked:
        connection.inc_thread_sharing()
        # The server may have closed it, or its thread may still use it.
        with contextlib.suppress(Exception):
            connection.close()
    return bool(leaked or ended)


def _name(alias: str) -> str:
    return str(settings.DATABASES[alias]["NAME"])


@cache
def _tables_to_empty(alias: str) -> list[str]:
    """Return the tables of all models, except those that `migrate` fills, such as that of permissions."""
    connection = connections[alias]
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    quoted = {table: connection.ops.quote_name(table) for table in sorted(tables)}
    with connection.cursor() as cursor:
        filled = _those_with_rows(cursor, list(quoted.values()))
    return [table for table, name in quoted.items() if name not in filled]


def _those_with_rows(cursor: Any, tables: list[str]) -> list[str]:
    """Return which of these tables, with quoted names, have rows: one statement costs less than one for each table."""
    cursor.execute("SELECT " + ", ".join(f"EXISTS (SELECT 1 FROM {table})" for table in tables))
    return list(itertools.compress(tables, cursor.fetchone()))


def _remember(connection: Any, **kwargs: Any) -> None:
    _opened.append(connection)
