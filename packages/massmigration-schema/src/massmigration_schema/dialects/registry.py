"""A registry that finds the classes of a database."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from django.db import connections

from massmigration_schema.costs import OperationCost
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import Catalog, RowSynchronizer, TableSwap
from massmigration_schema.dialects.mariadb import MariaDBCatalog, MariaDBLock, MariaDBRows, MariaDBTables
from massmigration_schema.dialects.mysql import MySQLCatalog, MySQLLock, MySQLRows, MySQLTables, MySQLTrial
from massmigration_schema.dialects.mysql_costs import BaseMySQLTrial
from massmigration_schema.dialects.mysql_swap import MySQLSwap
from massmigration_schema.dialects.postgresql_catalog import PostgreSQLCatalog
from massmigration_schema.dialects.postgresql_costs import costs_on_postgresql
from massmigration_schema.dialects.postgresql_lock import PostgreSQLLock
from massmigration_schema.dialects.postgresql_rows import PostgreSQLRows
from massmigration_schema.dialects.postgresql_swap import PostgreSQLSwap
from massmigration_schema.dialects.postgresql_tables import PostgreSQLTables
from massmigration_schema.locks import LockLimits, TableLock
from massmigration_schema.plan import ChangePlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchemaDialect:
    """The classes and functions of one kind of database."""

    catalog: Callable[[str], Catalog]
    lock: Callable[[str], TableLock]
    costs: Callable[[Derivation, str], list[OperationCost]]
    rows: Callable[[str, ChangePlan], RowSynchronizer]
    swap: Callable[[str, Derivation, LockLimits], TableSwap]
    locks_statements: bool
    """Whether each statement gets the table's lock by itself, because schema changes are not transactional."""

    requires_equal_types: bool
    """Whether a foreign key must have the type of the key that it refers to."""


DIALECTS = {
    "mysql": SchemaDialect(
        catalog=MySQLCatalog,
        lock=MySQLLock,
        costs=lambda *arguments: MySQLTrial(*arguments).costs(),
        rows=MySQLRows,
        swap=lambda *arguments: MySQLSwap(MySQLTables(*arguments)),
        locks_statements=True,
        requires_equal_types=True,
    ),
    "mariadb": SchemaDialect(
        catalog=MariaDBCatalog,
        lock=MariaDBLock,
        costs=lambda *arguments: BaseMySQLTrial(*arguments).costs(),
        rows=MariaDBRows,
        swap=lambda *arguments: MySQLSwap(MariaDBTables(*arguments)),
        locks_statements=True,
        requires_equal_types=True,
    ),
    "postgresql": SchemaDialect(
        catalog=PostgreSQLCatalog,
        lock=PostgreSQLLock,
        costs=costs_on_postgresql,
        rows=PostgreSQLRows,
        swap=lambda *arguments: PostgreSQLSwap(PostgreSQLTables(*arguments)),
        locks_statements=False,
        requires_equal_types=False,
    ),
}
"""By the `vendor` of Django's database wrapper, and `mariadb`."""


def supports_online_changes(db_alias: str) -> bool:
    """Return whether tables of a database can be changed online, without connecting to it."""
    return connections[db_alias].vendor in DIALECTS


def schema_dialect_of(db_alias: str) -> SchemaDialect | None:
    """Return the classes of a database, or None if its tables cannot be changed online.

    On MySQL and MariaDB this may connect to the server, to ask which it is.
    """
    connection: Any = connections[db_alias]
    if connection.vendor == "mysql" and connection.mysql_is_mariadb:
        return DIALECTS["mariadb"]
    return DIALECTS.get(connection.vendor)
