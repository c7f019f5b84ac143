"""`PostgreSQLDialect`."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BooleanField, Field, Func, Model, QuerySet
from django.utils import timezone

from massmigration.dialects.base import (
    SINGLE_PRECISION,
    Access,
    AccessPath,
    Dialect,
    RowCopy,
    explained_nodes,
    insert_on_conflict,
)
from massmigration.dialects.writer import Fields, Row
from massmigration.exceptions import CannotMeasure

_LOCK_NAMESPACE = 0x6D6D
"""The first number of the advisory locks that this package takes."""

# The types without their lengths. A cast to varchar(10) would silently cut values.
_TYPES = frozenset(
    (
        *("smallint", "integer", "bigint", "numeric", "real", "double precision", "boolean"),
        *("text", "varchar", "citext", "bytea", "uuid", "jsonb", "inet"),
        *("date", "time", "time without time zone", "interval"),
        *("timestamp with time zone", "timestamp without time zone"),
    )
)


class _WrittenHere(Func):
    """An expression that is true of rows written by the current transaction at its top level."""

    arity = 0
    output_field = BooleanField()

    def as_sql(  # type: ignore[override]  # takes no function, template or joiner
        self, compiler: Any, connection: BaseDatabaseWrapper, **extra: Any
    ) -> tuple[str, tuple[()]]:
        return "(xmin::text = (txid_current() & 4294967295)::text)", ()


class PostgreSQLDialect(Dialect):
    """PostgreSQL."""

    orders_uuids_as_numbers = True
    estimates_conditions = True
    keeps_time_zones = True
    rounded_types = SINGLE_PRECISION
    has_schemas = True
    shared_lock_clause = " FOR SHARE"

    @contextlib.contextmanager
    def transaction(self, *, idle_limit: dt.timedelta, lock_wait: dt.timedelta | None) -> Iterator[None]:
        limits = {"idle_in_transaction_session_timeout": idle_limit}
        if lock_wait:
            limits["lock_timeout"] = lock_wait
        with super().transaction(idle_limit=idle_limit, lock_wait=lock_wait):
            with self.connection.cursor() as cursor:
                for name, limit in limits.items():
                    cursor.execute(f"SET LOCAL {name} = {_milliseconds(limit)}")
            yield

    def queue_for_row(self, pk: int) -> None:
        # When several transactions wait for a row, a commit gives it to the first that asks afterwards: its owner,
        # batch after batch. Advisory locks have a queue.
        self.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK_NAMESPACE, pk % 2**31])

    def written_here(self) -> list[Func]:
        # A savepoint has another transaction id, and Django's TestCase puts savepoints around everything.
        return [] if self.connection.savepoint_ids else [_WrittenHere()]

    def can_write_in_bulk(self, fields: Fields) -> bool:
        return self.are_plain(fields) and all(self._type(field) in _TYPES for field in fields)

    def update_statement(self, model: Any, fields: Fields, rows: Sequence[Row]) -> int:
        table, pk, columns = self.names(model, fields)
        types = [self._type(field) for field in (*fields, model._meta.pk)]
        aliases = [f"c{index}" for index in range(len(fields))]
        sql = (
            f"UPDATE {table} SET {', '.join(f'{name} = v.{new}' for name, new in zip(columns, aliases, strict=True))} "
            f"FROM unnest({', '.join(f'%s::{kind}[]' for kind in types)}) AS v({', '.join(aliases)}, pk) "
            f"WHERE {table}.{pk} = v.pk"
        )
        values = list(zip(*rows, strict=True))
        bounds = _bounds(values[-1])
        if bounds:
            sql += f" AND {table}.{pk} BETWEEN %s AND %s"
        with self.connection.cursor() as cursor:
            cursor.execute(sql, [*map(_array, values), *bounds])
            return int(cursor.rowcount)

    def _type(self, field: Field[Any, Any]) -> str:
        return re.sub(r"\(.*?\)", "", field.rel_db_type(self.connection) or "").strip()

    def copies_in_one_statement(self, *, has_other_unique: bool) -> bool:
        return True

    def copy_statements(self, copy: RowCopy) -> list[str]:
        return [insert_on_conflict(copy)]

    def advance_sequence(self, table: str, column: str) -> None:
        quoted = self.connection.ops.quote_name(column)
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", [table, column])
            (sequence,) = cursor.fetchone() or (None,)
            if sequence is not None:
                # Never back: other transactions may be inserting.
                cursor.execute(
                    f"SELECT setval(%s::regclass, top) FROM (SELECT max({quoted}) AS top FROM {table}) AS keys "
                    "WHERE top > coalesce(pg_sequence_last_value(%s::regclass), 0)",
                    [sequence, sequence],
                )

    def has_table(self, table: str) -> bool:
        return self._finds("SELECT 1 WHERE to_regclass(%s) IS NOT NULL", [self.connection.ops.quote_name(table)])

    def nullable_columns(self, table: str) -> dict[str, bool]:
        if '"."' not in table:
            return super().nullable_columns(table)
        # Django's introspection does not find a table by its schema.
        found = self.rows(
            "SELECT attname, NOT attnotnull FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self.connection.ops.quote_name(table)],
        )
        return dict(found)

    def column_type(self, table: str, column: str) -> str:
        found = self.rows(
            "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = %s",
            [self.connection.ops.quote_name(table), column],
        )
        return found[0][0] if found else ""

    def trigger_names(self, model: type[Model]) -> list[str]:
        found = self.rows(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND NOT tgisinternal ORDER BY 1",
            [self.connection.ops.quote_name(model._meta.db_table)],
        )
        return [name for (name,) in found]

    def has_row_security(self, model: type[Model]) -> bool:
        quote = self.connection.ops.quote_name
        tables = [quote(each._meta.db_table) for each in (model, *model._meta.get_parent_list())]
        ((is_active,),) = self.rows(
            f"SELECT {' OR '.join(['row_security_active(to_regclass(%s)::oid)'] * len(tables))}", tables
        )
        return bool(is_active)

    def estimated_table_rows(self, model: type[Model]) -> int | None:
        table = self.connection.ops.quote_name(model._meta.db_table)
        found = self.rows("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", [table])
        # -1: the table was never analyzed.
        return int(found[0][0]) if found and found[0][0] >= 0 else None

    def estimated_query_rows(self, queryset: QuerySet[Any]) -> int | None:
        compiled = self.compiled(queryset)
        if compiled is None:
            return 0
        sql, params = compiled
        ((found,),) = self.rows(f"EXPLAIN (FORMAT JSON) {sql}", params)
        (plan,) = json.loads(found) if isinstance(found, str) else found
        return int(plan["Plan"]["Plan Rows"])

    def explain_access(self, queryset: QuerySet[Any]) -> AccessPath:
        return access_path(explained_nodes(queryset))

    def lag_of_replicas(self) -> dt.timedelta:
        # The server keeps the last measured replay_lag: it does not count once everything is replayed.
        found = self.rows(
            "SELECT CASE WHEN pg_is_in_recovery() THEN NULL WHEN pg_current_wal_lsn() <= replay_lsn THEN 0 "
            "ELSE coalesce(EXTRACT(EPOCH FROM replay_lag), 0) END, replay_lsn IS NOT NULL FROM pg_stat_replication"
        )
        if not found:
            raise CannotMeasure(f"no replica is connected to database {self.db_alias!r}")
        if not all(is_shown for _, is_shown in found):
            raise CannotMeasure(
                f"the user of database {self.db_alias!r} is not shown the state of replicas; "
                "grant it the role pg_monitor"
            )
        return dt.timedelta(seconds=max(float(seconds or 0) for seconds, _ in found))

    def replication_lag(self) -> dt.timedelta:
        # Without writes on the primary, the time of the last replayed transaction is long ago.
        ((is_replica, is_connected, is_level, seconds),) = self.rows(
            "SELECT pg_is_in_recovery(), EXISTS (SELECT 1 FROM pg_stat_wal_receiver) "
            "OR pg_last_wal_receive_lsn() IS NULL, coalesce(pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn(), "
            "false), EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp())"
        )
        if not is_replica:
            raise CannotMeasure(f"database {self.db_alias!r} is not a replica")
        if not is_connected:
            raise CannotMeasure(f"the replica {self.db_alias!r} is not connected to its primary")
        return dt.timedelta(seconds=0 if is_level else max(float(seconds or 0), 0))

    def running_sessions(self) -> int:
        ((count,),) = self.rows(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(count)

    def oldest_transaction(self) -> dt.timedelta:
        # Of any database: the oldest snapshot counts for shared tables, and its transaction may be our replica's.
        ((seconds,),) = self.rows(
            "SELECT coalesce(max(EXTRACT(EPOCH FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity "
            "WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid() "
            "AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)"
        )
        return dt.timedelta(seconds=float(seconds))

    def lock_waiters(self, tables: Sequence[str]) -> int:
        # A session that waits for a row has, or waits for, a lock of the row's table.
        ((count,),) = self.rows(
            "SELECT count(DISTINCT pid) FROM pg_locks AS of_table WHERE locktype IN ('relation', 'tuple') "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND relation = ANY (SELECT to_regclass(name)::oid FROM unnest(%s::text[]) AS name) "
            "AND EXISTS (SELECT 1 FROM pg_locks AS awaited WHERE awaited.pid = of_table.pid AND NOT awaited.granted)",
            [self._quoted(tables)],
        )
        return int(count)

    def blocked_sessions(self) -> int:
        # The first session that waits for a row waits for the transaction that has locked it.
        ((count,),) = self.rows(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted "
            "AND transactionid = mod(txid_current_if_assigned(), 4294967296)::text::xid"
        )
        return int(count)

    def autovacuums(self, tables: Sequence[str]) -> list[bool]:
        found = self.rows(
            "SELECT query LIKE '%%(to prevent wraparound)%%' FROM pg_stat_progress_vacuum JOIN pg_stat_activity "
            "USING (pid) WHERE backend_type = 'autovacuum worker' "
            "AND relid = ANY (SELECT to_regclass(name)::oid FROM unnest(%s::text[]) AS name)",
            [self._quoted(tables)],
        )
        return [bool(is_wraparound) for (is_wraparound,) in found]

    def share_of_dead_rows(self, tables: Sequence[str]) -> float:
        ((share,),) = self.rows(
            "SELECT coalesce(max(n_dead_tup / greatest(n_live_tup + n_dead_tup, 1)::float), 0) "
            "FROM pg_stat_user_tables "
            "WHERE relid = ANY (SELECT to_regclass(name)::oid FROM unnest(%s::text[]) AS name)",
            [self._quoted(tables)],
        )
        return float(share)

    def _quoted(self, tables: Sequence[str]) -> list[str]:
        return [self.connection.ops.quote_name(table) for table in tables]

    def select_time(self, sql: str) -> str:
        # If the session's time zone was changed, the times that Django reads are wrong by hours.
        return f"EXTRACT(EPOCH FROM {sql})"

    def read_time(self, value: dt.datetime) -> dt.datetime:
        # An INSERT returns times without `select_time`; they are naive without USE_TZ.
        return timezone.make_aware(value, timezone.get_default_timezone()) if timezone.is_naive(value) else value


def access_path(nodes: Sequence[dict[str, Any]]) -> AccessPath:
    """Return what the nodes of a plan come to."""
    kinds = {node.get("Node Type", "") for node in nodes}
    indexes = tuple(dict.fromkeys(node["Index Name"] for node in nodes if "Index Name" in node))
    if "Seq Scan" in kinds:
        return Access.SCAN, indexes
    return Access.SORT if "Sort" in kinds else Access.SEEK, indexes


def _milliseconds(duration: dt.timedelta) -> int:
    return max(1, round(duration.total_seconds() * 1000))


def _bounds(keys: Row) -> Row:
    """Return the least and the greatest key, of types that Python and PostgreSQL order alike.

    The first and the last would not do: the keys of a second parent come in any order.
    """
    return (min(keys), max(keys)) if set(map(type, keys)) in ({int}, {uuid.UUID}) else ()


def _array(values: Row) -> list[Any] | str:
    """Return an array as PostgreSQL reads it, for plain numbers and texts: the driver takes 1.5 us to quote a value."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return "{" + ",".join(map(str, values)) + "}"
    text = "\x00".join(values) if kinds == {str} else ""
    if not text or text.count("\x00") != len(values) - 1:
        return list(values)
    return '{"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\x00", '","') + '"}'
