"""`Dialect`, the differences between databases, with the defaults for a database that has no class of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import DatabaseError, transaction
from django.db.models import (
    Field,
    Func,
    Model,
    QuerySet,
)

from massmigration import text
from massmigration.dialects.writer import BatchWriter
from massmigration.exceptions import CannotMeasure

MARK = "massmigration_batch"
"""The savepoint that marks a transaction."""

SINGLE_PRECISION = frozenset({"real", "float", "float4"})
"""Types of columns on PostgreSQL, MySQL and MariaDB."""

ROUNDED = "is a column of type {}, which is rounded when it is read"
"""The text that `Dialect.inexact_key` returns for a column of single precision."""

SCHEMA_CHANGES = re.compile(
    r"""(?:
        (?:ALTER|CREATE(?!\s+TEMPORARY)|DROP(?!\s+TEMPORARY)|RENAME|TRUNCATE|GRANT|REVOKE|FLUSH|UNLOCK)\b
        | (?:ANALYZE|CHECK|OPTIMIZE|REPAIR)\s+(?:LOCAL\s+|NO_WRITE_TO_BINLOG\s+)?TABLES?\b
        | LOCK\s+TABLES?\b
        | SET\s+(?:SESSION\s+|@@(?:SESSION\.)?)?AUTOCOMMIT\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""The beginning of statements that commit the open transaction on MySQL and MariaDB."""

_NO_SAVEPOINT = re.compile(r"SAVEPOINT \S+ does not exist|no such savepoint", re.IGNORECASE)


class Access(Enum):
    """The way in which the database finds the rows of a batch."""

    SEEK = "an index finds the cursor, and is read from there"
    SCAN = "every row of the table is read for each batch"
    SORT = "all matching rows are sorted for each batch"
    EMPTY = "no row matches"
    UNKNOWN = "the database does not report it"


AccessPath = tuple[Access, tuple[str, ...]]
"""The way in which rows are found, and the names of the indexes that are used."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerProblem:
    """A property of the server, or of the connection, that a system check reports."""

    text: str
    """A sentence without its end."""

    hint: str
    stops_migrations: bool = False
    """Whether no batch can be committed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowCopy:
    """An INSERT … SELECT that skips or overwrites rows with an existing key. All names are quoted."""

    table: str
    columns: Mapping[str, str]
    """The column of the SELECT for each column of the table."""

    keys: Sequence[str]
    """The columns of the table's primary key."""

    select: str
    overwrite: bool
    has_other_unique: bool
    """Whether the table has a unique constraint besides its primary key."""

    @property
    def insert(self) -> str:
        """The beginning of the statement."""
        return f"INSERT INTO {self.table} ({', '.join(self.columns)}) "

    @property
    def overwritten(self) -> dict[str, str]:
        """The columns that are overwritten in existing rows: all but the key, or none."""
        if not self.overwrite:
            return {}
        return {column: name for column, name in self.columns.items() if column not in self.keys}


class Dialect(BatchWriter):
    """A database and its differences from others.

    This class holds the defaults, which use only the ORM. See "Add a database" in the documentation.
    """

    # ---- Capabilities ----

    has_sql = True
    """Whether the database has tables, and executes SQL with expressions through Django's cursors."""

    supports_savepoints = True
    """Whether an error within a batch can be rolled back by itself."""

    supports_parallel_shards = True
    """Whether two transactions can write at the same time."""

    waits_for_locks = True
    """Whether a statement waits for a row that another transaction has locked, instead of failing."""

    reads_block_writes = False
    """Whether a row that a transaction has read cannot be written by others until it ends."""

    max_transaction_writes: int | None = None
    """The number of rows that one transaction can write. None: any number."""

    max_batch_size: int | None = None
    """The largest batch that the database accepts. None: no limit."""

    max_batch_duration: dt.timedelta | None = None
    """The maximum duration of a batch, even if `MASSMIGRATION_BATCH_DURATION` is longer. None: no limit."""

    orders_uuids_as_numbers = False
    """Whether UUIDs are ordered as the numbers that they stand for."""

    estimates_conditions = False
    """Whether `estimated_query_rows` is accurate enough, for a query with conditions, to be shown to people."""

    keeps_time_zones: bool = False
    """Whether a column of times keeps aware times."""

    rounded_types: frozenset[str] = frozenset()
    """The types of columns whose values are rounded when they are read."""

    has_schemas: bool | None = None
    """Whether tables can be in other schemas, which `has_schema` finds. None: not known."""

    shared_lock_clause = ""
    """The end of a SELECT that keeps its rows from being changed until the transaction ends."""

    marks_transactions = False
    """Whether a savepoint is needed to notice that a transaction was committed behind Django's back."""

    # ---- Transactions and locks ----

    @contextlib.contextmanager
    def transaction(self, *, idle_limit: dt.timedelta, lock_wait: dt.timedelta | None) -> Iterator[None]:
        """Open a durable transaction that reads what is committed at the time of each statement.

        `idle_limit`: the server ends the transaction when it is idle for longer, if the server can.
        `lock_wait`: how long a statement waits for a row lock. None: the server's own limit.
        """
        with transaction.atomic(using=self.db_alias, durable=True):
            yield

    def queue_for_row(self, pk: int) -> None:
        """Wait for a shard's row in the order of arrival, if the database grants row locks in another order."""

    def yield_write_lock(self, held: float) -> bool:
        """Let other writers have a lock that batches held for `held` seconds. Return whether there was a pause."""
        return False

    def written_here(self) -> list[Func]:
        """Return conditions that are true of rows that the present transaction has written. Empty: none is known."""
        return []

    def implicit_commits(self) -> re.Pattern[str] | None:
        """Return a pattern for the beginning of statements, other than COMMIT, that commit the open transaction."""
        return None if self.connection.features.can_rollback_ddl else SCHEMA_CHANGES

    def has_open_snapshot(self) -> bool:
        """Return whether the open transaction reads rows as they were when it began."""
        return False

    def mark_transaction(self) -> None:
        """Set a mark that `is_marked` finds in the same transaction only."""
        if self.marks_transactions:
            self.execute(f"SAVEPOINT {MARK}")

    def is_marked(self) -> bool:
        """Return whether the transaction is the one that was marked, and remove the mark.

        True where no marks are set: such a database notices a hidden commit by `written_here`, or not at all.
        """
        if not self.marks_transactions:
            return True
        try:
            self.execute(f"RELEASE SAVEPOINT {MARK}")
        except DatabaseError as error:
            if not self.is_missing_savepoint(error):
                raise
            return False
        return True

    def is_missing_savepoint(self, error: DatabaseError) -> bool:
        """Return whether the error says that a savepoint does not exist."""
        return bool(_NO_SAVEPOINT.search(text.safe(error)))

    # ---- Copying rows ----

    def copies_in_one_statement(self, *, has_other_unique: bool) -> bool:
        """Return whether `copy_statements` returns a single statement."""
        return False

    def copy_statements(self, copy: RowCopy) -> list[str]:
        """Return the statements of a copy. Each has the parameters of `copy.select`."""
        same = " AND ".join(f"t.{column} = s.{name}" for column, name in copy.columns.items() if column in copy.keys)
        values = ", ".join(f"s.{name}" for name in copy.columns.values())
        insert = (
            f"{copy.insert}SELECT {values} FROM ({copy.select}) s "
            f"WHERE NOT EXISTS (SELECT 1 FROM {copy.table} t WHERE {same})"
        )
        if not copy.overwritten:
            return [insert]
        setting = ", ".join(f"t.{column} = s.{name}" for column, name in copy.overwritten.items())
        return [f"UPDATE {copy.table} t JOIN ({copy.select}) s ON {same} SET {setting}", insert]

    def advance_sequence(self, table: str, column: str) -> None:
        """Move the sequence of a column past the greatest key, if inserted keys do not move it. `table` is quoted."""

    # ---- Tables, columns and what is defined on them ----

    def has_table(self, table: str) -> bool:
        """Return whether a table exists. `table` is a model's `db_table`."""
        with self.connection.cursor() as cursor:
            return unqualified_name(table) in self.connection.introspection.table_names(cursor)

    def has_schema(self, name: str) -> bool:
        """Return whether the server shows a schema of this name."""
        return self._finds("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", [name])

    def has_table_in_schema(self, schema: str, table: str) -> bool:
        """Return whether the schema has such a table."""
        return self._finds(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = %s", [schema, table]
        )

    def nullable_columns(self, table: str) -> dict[str, bool]:
        """Return the columns of a table, and whether each can be NULL. `table` is a model's `db_table`."""
        with self.connection.cursor() as cursor:
            described = self.connection.introspection.get_table_description(cursor, table)
        return {str(each.name): bool(each.null_ok) for each in described}

    def column_type(self, table: str, column: str) -> str:
        """Return the name of a column's type in the database; empty if it is not known."""
        return ""

    def inexact_key(self, field: Field[Any, Any]) -> str:
        """Return why a row may not be found by a value that was read from this field; empty if it is always found.

        The text follows "which".
        """
        kind = re.split(r"[\s(]", (field.db_type(self.connection) or "").lower())[0]
        return ROUNDED.format(kind) if kind in self.rounded_types else ""

    def trigger_names(self, model: type[Model]) -> list[str]:
        """Return the names of the triggers on the model's table; empty if the database cannot be asked."""
        return []

    def has_row_security(self, model: type[Model]) -> bool:
        """Return whether this user may be shown rows of the model that it cannot change."""
        return False

    # ---- Foreign keys ----

    def dangling_references(self) -> frozenset[tuple[Any, ...]]:
        """Return the rows that refer to rows which do not exist, if the database checks that at COMMIT only."""
        return frozenset()

    def check_references(self, before: frozenset[tuple[Any, ...]]) -> None:
        """Raise `IntegrityError` where COMMIT would. `before`: the dangling references before the transaction."""
        if self.connection.features.can_defer_constraint_checks:
            self.connection.check_constraints()

    # ---- The planner ----

    def estimated_table_rows(self, model: type[Model]) -> int | None:
        """Return the planner's estimate of the number of rows of a table. None: it has none."""
        return None

    def estimated_query_rows(self, queryset: QuerySet[Any]) -> int | None:
        """Return the planner's estimate of the number of rows of a queryset. None: it has none."""
        return None

    def explain_access(self, queryset: QuerySet[Any]) -> AccessPath:
        """Return the way in which the rows of a batch would be found."""
        return Access.UNKNOWN, ()

    # ---- The server ----

    def server_problems(self) -> list[ServerProblem]:
        """Return what is wrong with the server's version or its settings, and with the connection's."""
        return []

    # ---- The server's load, for throttles. None: this kind of database has nothing to measure ----

    def lag_of_replicas(self) -> dt.timedelta | None:
        """Return how far the last of the replicas that are connected to this server is behind.

        Raise `CannotMeasure` if there is none, or this user is not told.
        """
        return None

    def replication_lag(self) -> dt.timedelta:
        """Return how far this server, a replica, is behind. Raise `CannotMeasure` if it is none or not connected."""
        raise CannotMeasure(f"database {self.db_alias!r} ({self.connection.vendor}) is not a replica")

    def running_sessions(self) -> int | None:
        """Return how many sessions of the server execute a statement."""
        return None

    def oldest_transaction(self) -> dt.timedelta | None:
        """Return the age of the oldest open transaction, outside of transactions; zero if there is none."""
        return None

    def lock_waiters(self, tables: Sequence[str]) -> int | None:
        """Return how many sessions wait for locks of these tables, or of rows in them."""
        return None

    def blocked_sessions(self) -> int | None:
        """Return how many sessions wait for locks of the present transaction, as far as the database can tell."""
        return None

    def autovacuums(self, tables: Sequence[str]) -> list[bool] | None:
        """Return the running autovacuums of these tables, each as whether it prevents a wraparound."""
        return None

    def share_of_dead_rows(self, tables: Sequence[str]) -> float | None:
        """Return which part of the rows of these tables is dead, for the table where it is greatest."""
        return None

    # ---- Times ----

    def select_time(self, sql: str) -> str:
        """Return the SQL that selects a column of `UtcDateTimeField`."""
        return sql

    def read_time(self, value: dt.datetime) -> dt.datetime:
        """Return a time that Django has read from a column of `UtcDateTimeField`, as an aware one."""
        # If it is aware, Django has attached the time zone of DATABASES, and that is wrong.
        return value.replace(tzinfo=dt.timezone.utc)

    # ---- Helpers ----

    def execute(self, sql: str, params: Sequence[Any] | None = None) -> None:
        """Execute a statement whose result does not matter."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)

    def rows(self, sql: str, params: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Execute a statement and return its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())

    def compiled(self, queryset: QuerySet[Any]) -> tuple[str, Sequence[Any]] | None:
        """Return the SQL of a queryset without its ordering, and its parameters. None: it cannot have rows."""
        try:
            sql, params = queryset.order_by().query.get_compiler(self.db_alias).as_sql()
        except EmptyResultSet:
            return None
        return sql, params

    def _finds(self, sql: str, params: Sequence[Any]) -> bool:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone() is not None


def unqualified_name(table: str) -> str:
    """Return the name of a table without its schema, for a `db_table` such as `"schema"."table"`."""
    return re.split(r'["`]\.["`]', table)[-1].strip('"`')


def insert_on_conflict(copy: RowCopy) -> str:
    """Return a copy as one statement, where ON CONFLICT is known."""
    setting = ", ".join(f"{column} = EXCLUDED.{column}" for column in copy.overwritten)
    action = f"UPDATE SET {setting}" if setting else "NOTHING"
    return f"{copy.insert}{copy.select} ON CONFLICT ({', '.join(copy.keys)}) DO {action}"


def explained_nodes(queryset: QuerySet[Any]) -> list[dict[str, Any]]:
    """Return every object of a query's plan in JSON, the outermost first."""
    found = json.loads(queryset.explain(format="json"))
    # Django 5.2 and later encode what the driver returns: text from the driver is encoded twice.
    return list(_nodes(json.loads(found) if isinstance(found, str) else found))


def _nodes(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        yield found
    for inner in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from _nodes(inner)
