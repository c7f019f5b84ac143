"""`BaseMySQLDialect`, with what MySQL and MariaDB have in common."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from django.db import DatabaseError, transaction
from django.db.models import Model, QuerySet

from massmigration.dialects.base import (
    SCHEMA_CHANGES,
    SINGLE_PRECISION,
    Access,
    AccessPath,
    Dialect,
    RowCopy,
    ServerProblem,
    explained_nodes,
)
from massmigration.dialects.writer import Fields, Row
from massmigration.exceptions import CannotMeasure

_COMMITS = re.compile(
    SCHEMA_CHANGES.pattern
    + r"""
    | SET\s+(?:PASSWORD|DEFAULT\s+ROLE)\b | CACHE\s+INDEX\b | LOAD\s+INDEX\b | RESET\b | IMPORT\s+TABLE\b
    | (?:UN)?INSTALL\b | CLONE\b | (?:START|STOP)\s+(?:ALL\s+)?(?:REPLICA|SLAVE)S?\b | CHANGE\s+(?:REPLICATION|MASTER)\b
    """,
    SCHEMA_CHANGES.flags,
)
"""The beginning of statements that commit the open transaction, even if they fail."""


_ACTIVE = re.compile(r"\A---TRANSACTION [^\n]*?, ACTIVE(?: \([^)]*\))? (\d+) sec")
_AWAITED = re.compile(r"^-+ TRX HAS BEEN WAITING [^\n]*:\n[^\n]*? table (`[^\n]+?`\.`[^\n]+?`) trx id", re.MULTILINE)


class InnoDBTransaction(NamedTuple):
    """An open transaction of InnoDB."""

    seconds: int
    """How long it has been open."""

    awaited_table: str
    """The quoted name of the table of the lock that it waits for; empty if it waits for none."""


class BaseMySQLDialect(Dialect):
    """A server of the MySQL family. `MySQLDialect` and `MariaDBDialect` inherit from this class."""

    rounded_types = SINGLE_PRECISION
    has_schemas = True
    marks_transactions = True

    idle_limit_variable: str
    """The session variable, in seconds, that limits how long a transaction is idle."""

    @contextlib.contextmanager
    def transaction(self, *, idle_limit: dt.timedelta, lock_wait: dt.timedelta | None) -> Iterator[None]:
        limits = {self.idle_limit_variable: idle_limit}
        if lock_wait:
            limits["innodb_lock_wait_timeout"] = lock_wait
        with self._session_variables({name: _seconds(limit) for name, limit in limits.items()}) as restore:
            self._read_committed()
            with super().transaction(idle_limit=idle_limit, lock_wait=lock_wait):
                # Before the functions of others, which may take longer. Not before COMMIT: a worker that is frozen
                # between the two would keep its locks.
                transaction.on_commit(restore, using=self.db_alias)
                yield

    def update_statement(self, model: Any, fields: Fields, rows: Sequence[Row]) -> int:
        table, pk, names = self.names(model, fields)
        columns = [*(f"c{index}" for index in range(len(fields))), "pk"]
        tables = self.updated_tables(table, ", ".join(columns), ", ".join(["%s"] * len(columns)), len(rows))
        changes = ", ".join(f"{table}.{name} = v.{new}" for name, new in zip(names, columns[:-1], strict=True))
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {tables} ON {table}.{pk} = v.pk SET {changes}", [value for row in rows for value in row]
            )
            return int(cursor.rowcount)

    def updated_tables(self, table: str, columns: str, placeholders: str, rows: int) -> str:
        """Return the join, for UPDATE, of the table with a list of rows that is named `v`."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _session_variables(self, values: dict[str, int]) -> Iterator[Callable[[], None]]:
        """Set variables of the session. Yield a function that restores them, which is called at the end at the latest.

        The variables are lost with the connection, so they are not restored in another one.
        """
        # The server evaluates all values of a SET before it assigns one.
        keep = [f"@massmigration_{name} = @@SESSION.{name}" for name in values]
        change = [f"SESSION {name} = {value}" for name, value in values.items()]
        self.execute(f"SET {', '.join([*keep, *change])}")
        is_changed = True

        def restore() -> None:
            nonlocal is_changed
            if is_changed and self.connection.connection is not None:
                is_changed = False
                with contextlib.suppress(DatabaseError), self.connection.cursor() as cursor:
                    cursor.execute("SET " + ", ".join(f"SESSION {name} = @massmigration_{name}" for name in values))

        try:
            yield restore
        finally:
            restore()

    def _read_committed(self) -> None:
        """Set the isolation level of the next transaction to Django's default, whatever the project has chosen.

        At REPEATABLE READ, the transaction would read rows as they were when it began, even those that it waited for.
        """
        if not self._is_read_committed():
            self.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def has_open_snapshot(self) -> bool:
        return self.connection.in_atomic_block and not self._is_read_committed()

    def _is_read_committed(self) -> bool:
        return getattr(self.connection, "isolation_level", None) == "read committed"

    def implicit_commits(self) -> re.Pattern[str] | None:
        return _COMMITS

    def copies_in_one_statement(self, *, has_other_unique: bool) -> bool:
        # ON DUPLICATE KEY would also overwrite, or pass over, a row with the same value of another unique key.
        return not has_other_unique

    def copy_statements(self, copy: RowCopy) -> list[str]:
        if copy.has_other_unique:
            return super().copy_statements(copy)
        setting = ", ".join(f"{copy.table}.{column} = VALUES({column})" for column in copy.overwritten)
        setting = setting or f"{copy.table}.{copy.keys[0]} = {copy.table}.{copy.keys[0]}"
        return [f"{copy.insert}{copy.select} ON DUPLICATE KEY UPDATE {setting}"]

    def column_type(self, table: str, column: str) -> str:
        found = self.rows(
            "SELECT data_type FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name = %s AND column_name = %s",
            [table, column],
        )
        return found[0][0] if found else ""

    def trigger_names(self, model: type[Model]) -> list[str]:
        found = self.rows(
            "SELECT trigger_name FROM information_schema.triggers "
            "WHERE event_object_schema = DATABASE() AND event_object_table = %s ORDER BY 1",
            [model._meta.db_table],
        )
        return [name for (name,) in found]

    def estimated_query_rows(self, queryset: QuerySet[Any]) -> int | None:
        compiled = self.compiled(queryset)
        return 0 if compiled is None else self._explained_rows(*compiled)

    def _explained_rows(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Return the planner's estimate of the rows that are read from the table from which most are read."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {sql}", params)
            names = [column[0] for column in cursor.description]
            return int(max(dict(zip(names, row, strict=True))["rows"] or 0 for row in cursor.fetchall()))

    def server_problems(self) -> list[ServerProblem]:
        problems = []
        found = dict(self.rows("SHOW VARIABLES WHERE Variable_name IN ('binlog_format', 'log_bin')"))
        if found.get("log_bin") == "ON" and found.get("binlog_format") == "STATEMENT":
            problems.append(
                ServerProblem(
                    text="binlog_format is STATEMENT, with which the server refuses every write of a transaction at "
                    "READ COMMITTED (error 1665), and so every batch",
                    hint="Set binlog_format to ROW, or to MIXED, on the server.",
                    stops_migrations=True,
                )
            )
        if type(self.connection).__module__.startswith("mysql.connector."):
            problems.append(
                ServerProblem(
                    text="the database engine of mysql-connector-python is not supported. It writes some decimals as "
                    "floating-point numbers, which loses digits when a statement writes several rows",
                    hint="Use the engine 'django.db.backends.mysql' with mysqlclient or PyMySQL.",
                )
            )
        elif not self._is_read_committed():
            level = getattr(self.connection, "isolation_level", None)
            problems.append(
                ServerProblem(
                    text=f"isolation_level is {level!r}: a transaction may not see what workers commit after it has "
                    "begun, so ensure_migrated() is refused inside transactions",
                    hint="Use Django's default, 'read committed', in OPTIONS, or call ensure_migrated() outside of "
                    "transactions. Batches are not affected: they always use READ COMMITTED.",
                )
            )
        return problems

    def lag_of_replicas(self) -> dt.timedelta:
        raise CannotMeasure(
            f"database {self.db_alias!r} does not know how far its replicas are behind. Name them in DATABASES and in "
            "MaxReplicaLag(aliases=[...])"
        )

    def replication_lag(self) -> dt.timedelta:
        statement, lag = self.replica_status()
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            names = [column[0] for column in cursor.description or ()]
            channels = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        if not channels:
            raise CannotMeasure(f"database {self.db_alias!r} is not a replica")
        lags = [channel[lag] for channel in channels]
        if None in lags:
            raise CannotMeasure(f"the replica {self.db_alias!r} is not connected to its primary, or does not replicate")
        return dt.timedelta(seconds=max(map(float, lags)))

    def replica_status(self) -> tuple[str, str]:
        """Return the statement that shows the state of replication on a replica, and its column with the lag."""
        raise NotImplementedError

    def running_sessions(self) -> int:
        ((_, count),) = self.rows("SHOW GLOBAL STATUS LIKE 'Threads_running'")
        return max(int(count) - 1, 0)  # without this session

    def oldest_transaction(self) -> dt.timedelta:
        return dt.timedelta(seconds=max((each.seconds for each in self._transactions()), default=0))

    def lock_waiters(self, tables: Sequence[str]) -> int:
        names = {f"`{self.connection.settings_dict['NAME']}`.`{table}`" for table in tables}
        return sum(each.awaited_table in names for each in self._transactions())

    def blocked_sessions(self) -> int:
        # Of the whole server: what tells the sessions apart needs a privilege, or takes long.
        ((_, count),) = self.rows("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
        return int(count)

    def _transactions(self) -> list[InnoDBTransaction]:
        """Return the open transactions of InnoDB."""
        # Not from information_schema.innodb_trx: it is not renewed while sessions read it more often than every 100 ms.
        ((*_, status),) = self.rows("SHOW ENGINE INNODB STATUS")
        return innodb_transactions(status)

    def explain_access(self, queryset: QuerySet[Any]) -> AccessPath:
        return access_path(explained_nodes(queryset))


def innodb_transactions(status: str) -> list[InnoDBTransaction]:
    """Return the open transactions that a text of SHOW ENGINE INNODB STATUS lists."""
    found = []
    for described in re.split(r"^(?=---TRANSACTION )", status, flags=re.MULTILINE):
        match, awaited = _ACTIVE.search(described), _AWAITED.search(described)
        if match:
            found.append(InnoDBTransaction(seconds=int(match[1]), awaited_table=awaited[1] if awaited else ""))
    return found


def access_path(nodes: Sequence[dict[str, Any]]) -> AccessPath:
    """Return what the nodes of a plan come to."""
    # MySQL 8.3 and later have a second format: "index_name", and "sort" or "table" for the type of access.
    names = (node.get("key", node.get("index_name")) for node in nodes)
    indexes = tuple(dict.fromkeys(name for name in names if isinstance(name, str)))
    kinds = {node.get("access_type") for node in nodes}
    if "sort" in kinds or any("filesort" in node or node.get("using_filesort") for node in nodes):
        return Access.SORT, indexes
    return Access.SEEK if kinds.isdisjoint({"ALL", "table"}) else Access.SCAN, indexes


def _seconds(duration: dt.timedelta) -> int:
    return max(1, round(duration.total_seconds()))
