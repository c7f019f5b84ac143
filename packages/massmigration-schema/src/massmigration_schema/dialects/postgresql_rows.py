"""`PostgreSQLRows`: statements that copy, resynchronize and compare rows on PostgreSQL."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from massmigration_schema.dialects.base import Key, RowSynchronizer, same, verbatim
from massmigration_schema.dialects.postgresql_names import PostgreSQLNames
from massmigration_schema.plan import ChangePlan

COPY_WAIT = "200ms"
"""How long a copy waits: for a unique index of the new table alone, and for less than `deadlock_timeout`."""

RESYNC_WAIT = "800ms"
"""How long a resync waits for the writer of a row."""


class PostgreSQLRows(RowSynchronizer):
    """The rows of one change on PostgreSQL."""

    def __init__(self, db_alias: str, plan: ChangePlan) -> None:
        super().__init__(db_alias, plan)
        self._names = PostgreSQLNames(db_alias, plan)

    def converted(self, value: str, cast: str) -> str:
        return f"({value})::{cast}" if cast else value

    def copy(self, queryset: QuerySet[Any]) -> None:
        names = self._names
        where, params = self.condition(queryset, "o")
        self._limit_wait(COPY_WAIT)
        self.execute(
            f"WITH src AS MATERIALIZED (SELECT o.* FROM {names.origin} o WHERE {where} FOR SHARE SKIP LOCKED), "
            f"copied AS (INSERT INTO {names.shadow} ({self.names}) SELECT {self.expressions('src')} FROM src "
            f"ON CONFLICT ({', '.join(self.new_key())}) DO NOTHING) "
            f"INSERT INTO {names.log} ({self.log_columns}) "
            f"SELECT {', '.join(self.old_key('o'))}, 'locked by a writer' FROM {names.origin} o WHERE {where} AND NOT "
            f"EXISTS (SELECT 1 FROM src WHERE {same(self.old_key('src'), self.old_key('o'))})",
            [*params, *params],
        )

    def resync(self, key: Key) -> None:
        names, old, new = self._names, self.old_key("o"), self.new_key("s")
        is_old, is_new = same(old, self.marks), same(new, self.marks)
        self._limit_wait(RESYNC_WAIT)
        lock = f"SELECT 1 FROM {names.origin} o WHERE {is_old} FOR SHARE"
        if not self.rows(lock, key):
            # A writer that inserts the key now waits for this row in its trigger; one that had inserted it is seen.
            self.rows(f"SELECT 1 FROM {names.shadow} s WHERE {is_new} FOR UPDATE", key)
            if not self.rows(lock, key):
                self.execute(f"DELETE FROM {names.shadow} s WHERE {is_new}", key)
                return
        # In place where it is there: rows of other tables may refer to it.
        changed = self.execute(
            f"UPDATE {names.shadow} AS s SET {self.assignments('o')} FROM {names.origin} o "
            f"WHERE {is_old} AND {same(new, old)}",
            key,
        )
        if not changed:
            self.execute(
                f"INSERT INTO {names.shadow} ({self.names}) SELECT {self.expressions('o')} FROM {names.origin} o "
                f"WHERE {is_old}",
                key,
            )

    def verify(self, queryset: QuerySet[Any]) -> int:
        names = self._names
        types: dict[str, str] = dict(
            self.rows(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass "
                "AND attnum > 0 AND NOT attisdropped",
                [names.shadow.replace("%%", "%")],
            )
        )
        old = [f"({self.expression(column, 'o')})::{verbatim(types[column.name])}" for column in self.plan.columns]
        new = [f"n.{self.quote(column.name)}" for column in self.plan.columns]
        where_old, params_old = self.condition(queryset, "o")
        where_new, params_new = self.condition(queryset, "n", is_new=True)
        a = self._hashed(f"{names.origin} o", self.old_key("o"), old, where_old)
        b = self._hashed(f"{names.shadow} n", self.new_key("n"), new, where_new)
        total = "SELECT count(*) AS n, coalesce(sum(h), 0) AS h FROM"
        params = [*params_old, *params_new]
        if self.value(f"SELECT a.n = b.n AND a.h = b.h FROM ({total} ({a}) x) a, ({total} ({b}) y) b", params):
            return 0
        keys_a, keys_b = ([f"{alias}.k{number}" for number, _ in enumerate(self.marks)] for alias in "ab")
        either = ", ".join(f"coalesce({one}, {other})" for one, other in zip(keys_a, keys_b, strict=True))
        return self.execute(
            f"INSERT INTO {names.log} ({self.log_columns}) SELECT {either}, CASE WHEN a.h IS NULL THEN "
            "'verify: not in the old table' WHEN b.h IS NULL THEN 'verify: not in the new table' "
            f"ELSE 'verify: differs' END FROM ({a}) a FULL JOIN ({b}) b ON {same(keys_a, keys_b)} "
            "WHERE a.h IS DISTINCT FROM b.h",
            params,
        )

    def _hashed(self, table: str, key: list[str], values: list[str], where: str) -> str:
        """Return a query of key and hash of the rows of a batch."""
        listed = ", ".join(f"{column} AS k{number}" for number, column in enumerate(key))
        return f"SELECT {listed}, hashtextextended(ROW({', '.join(values)})::text, 0) AS h FROM {table} WHERE {where}"

    def _limit_wait(self, limit: str) -> None:
        self.rows("SELECT set_config('lock_timeout', %s, true)", [limit])
