"""Makes, empties and drops the tests' databases on every alias."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction
from django.db.backends.signals import connection_created

URL_VARIABLES = {"postgresql": "TEST_POSTGRES_URL", "mariadb": "TEST_MARIADB_URL"}

_opened: list[Any] = []


def server_version(alias: str) -> str:
    """Asks the server, which need not have a database of ours yet."""
    with _server_cursor(alias) as cursor:
        cursor.execute("SHOW server_version" if alias == "postgresql" else "SELECT version()")
        return str(cursor.fetchone()[0]).split()[0]


def create(alias: str) -> None:
    """Makes the alias' database anew and migrates it."""
    create_empty(alias)
    call_command("migrate", database=alias, verbosity=0, interactive=False)
    _tables_to_empty(alias)
    # From now on the connections of all threads are known, and kept until `empty` has closed them.
    connection_created.connect(_remember, dispatch_uid="testsupport.databases")


def create_empty(alias: str) -> None:
    """Makes the alias' database anew, without tables."""
    drop(alias)
    if alias in URL_VARIABLES:
        with _server_cursor(alias) as cursor:
            cursor.execute(f"CREATE DATABASE {_name(alias)}")


def drop(alias: str) -> None:
    """Removes the alias' database, whoever is connected."""
    connections[alias].close()
    if alias not in URL_VARIABLES:
        file = Path(_name(alias))
        for path in file.parent.glob(file.name + "*"):
            path.unlink()
        return
    with _server_cursor(alias) as cursor:
        _end_other_sessions(alias, cursor)
        cursor.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", [_name(alias)])
        if alias == "postgresql":
            cursor.execute(f"DROP DATABASE IF EXISTS {_name(alias)} WITH (FORCE)")
        elif cursor.fetchone():
            cursor.execute(f"DROP DATABASE {_name(alias)}")


def empty(alias: str) -> None:
    """Deletes every row that was not there after `migrate`, when nobody else is connected any more."""
    connection = connections[alias]
    is_broken = connection.in_atomic_block or not connection.get_autocommit() or not connection.is_usable()
    if is_broken:
        connection.close()
        connection.connect()
    close_leaked_connections(alias)
    statements = [f"DELETE FROM {connection.ops.quote_name(table)}" for table in _tables_to_empty(alias)]
    if alias == "postgresql":
        statements = [";".join(statements)]
    # Constraints are checked at the commit on PostgreSQL and SQLite, and not at all here on MariaDB.
    with connection.constraint_checks_disabled(), transaction.atomic(alias), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def close_leaked_connections(alias: str) -> None:
    """Ends the sessions of other threads and processes, whose locks must not meet the next test."""
    own = connections[alias]
    leaked = [each for each in _opened if each.alias == alias and each is not own and each.connection is not None]
    _opened[:] = [each for each in _opened if each.alias != alias]
    if alias in URL_VARIABLES:
        with own.cursor() as cursor:
            _end_other_sessions(alias, cursor)
    for connection in leaked:
        connection.inc_thread_sharing()
        # Its server has just ended it, or its thread is still in the middle of something.
        with contextlib.suppress(Exception):
            connection.close()


def _end_other_sessions(alias: str, cursor: Any) -> None:
    if alias == "postgresql":
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [_name(alias)],
        )
        return
    cursor.execute(
        "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> connection_id()", [_name(alias)]
    )
    for (session,) in cursor.fetchall():
        # It may have ended by itself meanwhile.
        with contextlib.suppress(DatabaseError, *_driver_errors()):
            cursor.execute(f"KILL CONNECTION {session}")


def _driver_errors() -> tuple[type[Exception], ...]:
    import pymysql

    return (pymysql.MySQLError,)


def _name(alias: str) -> str:
    return str(settings.DATABASES[alias]["NAME"])


@contextlib.contextmanager
def _server_cursor(alias: str) -> Iterator[Any]:
    """Opens a cursor of the driver's own, outside of our databases and of any transaction."""
    if alias == "postgresql":
        import psycopg

        with psycopg.connect(os.environ[URL_VARIABLES[alias]], autocommit=True) as connection:
            yield connection.cursor()
        return
    import pymysql

    given = settings.DATABASES[alias]
    login = {"host": given["HOST"], "user": given["USER"], "password": given["PASSWORD"], "port": given["PORT"] or 3306}
    with contextlib.closing(pymysql.connect(**login, autocommit=True)) as connection:
        yield connection.cursor()


@cache
def _tables_to_empty(alias: str) -> list[str]:
    """Returns the tables of all models, but those that `migrate` itself fills, such as the permissions'."""
    connection = connections[alias]
    tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
    with connection.cursor() as cursor:
        return [table for table in sorted(tables) if not _has_rows(cursor, connection.ops.quote_name(table))]


def _has_rows(cursor: Any, table: str) -> bool:
    cursor.execute(f"SELECT 1 FROM {table} LIMIT 1")
    return cursor.fetchone() is not None


def _remember(connection: Any, **kwargs: Any) -> None:
    _opened.append(connection)
