"""Pairs of servers, of which the second replicates the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from testsupport.database_servers import DatabaseServer, MariaDB, MySQL, PostgreSQL
from testsupport.processes import RunFolder

COPY = 'cp -a "$0" "$1"'


class PostgreSQLPrimary(PostgreSQL):
    """A server that vacuums soon and slowly."""

    variable = "TEST_POSTGRES_PRIMARY_URL"

    def command(self) -> Sequence[object]:
        return [*super().command(), "-c", "autovacuum_naptime=1s"]


class PostgreSQLReplica(PostgreSQL):
    """A server with a copy of the primary's folder, made before the primary has started."""

    variable = "TEST_POSTGRES_REPLICA_URL"
    primary: PostgreSQLPrimary

    def making(self) -> list[object]:
        data = self.folder / "data"
        return ["/bin/sh", "-c", COPY + ' && touch "$1/standby.signal"', self.primary.folder / "data", data]

    def command(self) -> Sequence[object]:
        return [*super().command(), "-c", f"primary_conninfo=host=127.0.0.1 port={self.primary.port} user=postgres"]

    def is_ready(self) -> bool:
        assert self._process
        return self._process.has_logged(b"ready to accept read-only connections")


class MariaDBPrimary(MariaDB):
    """A server with a binary log."""

    variable = "TEST_MARIADB_PRIMARY_URL"

    def command(self) -> Sequence[object]:
        return [*(word for word in super().command() if word != "--skip-log-bin"), "--log-bin=bin", "--server-id=1"]


class MariaDBReplica(MariaDB):
    """A server with a copy of the primary's folder, made before the primary has started."""

    variable = "TEST_MARIADB_REPLICA_URL"
    primary: MariaDBPrimary

    def making(self) -> list[object]:
        return ["/bin/sh", "-c", COPY, self.primary.folder / "data", self.folder / "data"]

    def command(self) -> Sequence[object]:
        return [*super().command(), "--server-id=2"]


class MySQLPrimary(MySQL):
    """A server whose binary log has a name that its replica knows."""

    variable = "TEST_MYSQL_PRIMARY_URL"

    def command(self) -> Sequence[object]:
        return [*super().command(), "--log-bin=bin", "--server-id=1"]


class MySQLReplica(MySQL):
    """A server with a copy of the primary's folder, made before the primary has started."""

    variable = "TEST_MYSQL_REPLICA_URL"
    primary: MySQLPrimary

    def making(self) -> list[object]:
        # Two servers must not have the same identity.
        return ["/bin/sh", "-c", COPY + ' && rm -f "$1/auto.cnf"', self.primary.folder / "data", self.folder / "data"]

    def command(self) -> Sequence[object]:
        return [*super().command(), "--skip-log-bin", "--server-id=2", "--skip-replica-start"]


PAIRS: dict[str, tuple[type[Any], type[Any]]] = {
    "postgresql": (PostgreSQLPrimary, PostgreSQLReplica),
    "mariadb": (MariaDBPrimary, MariaDBReplica),
    "mysql": (MySQLPrimary, MySQLReplica),
}

PORT_OF_MARIADB = "MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root'"
PORT_OF_MYSQL = "SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'root', GET_SOURCE_PUBLIC_KEY = 1"

START: dict[str, list[str]] = {
    "mariadb": [
        f"CHANGE MASTER TO {PORT_OF_MARIADB}, MASTER_LOG_FILE = 'bin.000001', MASTER_LOG_POS = 4",
        "START SLAVE",
    ],
    "mysql": [
        f"CHANGE REPLICATION SOURCE TO {PORT_OF_MYSQL}, SOURCE_LOG_FILE = 'bin.000001', SOURCE_LOG_POS = 4",
        "START REPLICA",
    ],
}
"""The statements that start the replication, on the replica. PostgreSQL's starts with its server."""


@contextlib.contextmanager
def replicated(engine: str, run: RunFolder, database: str) -> Iterator[tuple[DatabaseServer, DatabaseServer]]:
    """Start a primary and its replica, on MySQL and MariaDB with an empty database of this name.

    Raise `Unavailable` if there is no such server.
    """
    primary_class, replica_class = PAIRS[engine]
    primary, replica = primary_class(), replica_class()
    replica.primary = primary
    primary.prepare(run)
    primary._making.finish()
    replica.prepare(run)
    replica._making.finish()  # the primary must not start while its folder is copied
    try:
        for server in (primary, replica):
            server.launch()
            server.wait()
        with pytest.MonkeyPatch.context() as patch:
            for server in (primary, replica):
                patch.setenv(server.variable, server.url)
            if engine != "postgresql":
                with replica.cursor() as cursor:
                    for statement in START[engine]:
                        cursor.execute(statement.format(port=primary.port))
                with primary.cursor() as cursor:
                    primary.create_database(cursor, database)
        yield primary, replica
    finally:
        replica.stop()
        primary.stop()
