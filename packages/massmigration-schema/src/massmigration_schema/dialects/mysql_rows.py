"""`BaseMySQLRows`: statements that copy, resynchronize and compare rows on MySQL and MariaDB."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, ClassVar

from django.db import DatabaseError
from django.db.models import QuerySet

from massmigration_schema.dialects.base import Key, RowSynchronizer, same
from massmigration_schema.dialects.mysql_names import MySQLNames
from massmigration_schema.plan import ChangePlan

TYPE = re.compile(r"(?P<name>[a-z]+)(?P<length>\([^)]*\))?(?P<rest>.*)", re.DOTALL)
AS_THEY_ARE = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "integer", "bigint", "year"})
TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"})


class BaseMySQLRows(RowSynchronizer):
    """The rows of one change on MySQL and MariaDB."""

    shared_lock: ClassVar[str]
    """The end of a SELECT that locks the rows of all its tables against changes.

    With the rows of the new table locked, too, both tables are read as they are now, and not as they were before.
    """

    def __init__(self, db_alias: str, plan: ChangePlan) -> None:
        super().__init__(db_alias, plan)
        self._names = MySQLNames(db_alias, plan)

    def copy(self, queryset: QuerySet[Any]) -> None:
        names = self._names
        where, params = self.condition(queryset, "o")
        rows = (
            f"FROM {names.origin} o FORCE INDEX (PRIMARY) LEFT JOIN {names.shadow} n "
            f"ON {same(self.new_key('n'), self.old_key('o'))} WHERE {where} AND {self.new_key('n')[0]} IS NULL"
        )
        self.execute(
            f"INSERT INTO {names.shadow} ({self.names}) SELECT {self.expressions('o')} {rows} "
            f"{self.shared_lock} SKIP LOCKED",
            params,
        )
        self.execute(
            f"INSERT INTO {names.log} ({self.log_columns}) "
            f"SELECT {', '.join(self.old_key('o'))}, 'locked by a writer' {rows}",
            params,
        )

    def resync(self, key: Key) -> None:
        names, old, new = self._names, self.old_key("o"), self.new_key("n")
        is_old, is_new = same(old, self.marks), same(new, self.marks)
        with self._short_waits():
            look = f"SELECT 1 FROM {names.origin} o WHERE {is_old} "
            if not self.rows(look + self.shared_lock, key):
                self.rows(f"SELECT 1 FROM {names.shadow} n WHERE {is_new} FOR UPDATE", key)
                # The order of these two locks is the reverse of a writer's: do not wait for the second.
                if not self.rows(f"{look}{self.shared_lock} NOWAIT", key):
                    self.execute(f"DELETE FROM {names.shadow} WHERE {same(self.new_key(), self.marks)}", key)
                    return
            # In place where it is there: rows of other tables may refer to it.
            if self.rows(f"SELECT 1 FROM {names.shadow} n WHERE {is_new} FOR UPDATE", key):
                self.execute(
                    f"UPDATE {names.shadow} n JOIN {names.origin} o ON {same(old, new)} "
                    f"SET {self.assignments('o', 'n.')} WHERE {is_new}",
                    key,
                )
            else:
                self.execute(
                    f"INSERT INTO {names.shadow} ({self.names}) SELECT {self.expressions('o')} "
                    f"FROM {names.origin} o WHERE {is_old}",
                    key,
                )

    def verify(self, queryset: QuerySet[Any]) -> int:
        names = self._names
        types = {
            name: (str(kind), charset)
            for name, kind, charset in self.rows(
                "SELECT column_name, column_type, character_set_name FROM information_schema.columns "
                "WHERE table_schema = DATABASE() AND table_name = %s",
                [names.shadow_name],
            )
        }
        old = [_text(self.expression(column, "o"), *types[column.name]) for column in self.plan.columns]
        new = [_text(f"n.{self.quote(column.name)}", *types[column.name]) for column in self.plan.columns]
        where_old, params_old = self.condition(queryset, "o")
        where_new, params_new = self.condition(queryset, "n", is_new=True)
        a = _hashed(f"{names.origin} o", self.old_key("o"), old, where_old)
        b = _hashed(f"{names.shadow} n", self.new_key("n"), new, where_new)
        total = "SELECT COUNT(*) AS n, COALESCE(BIT_XOR(h), 0) AS x, COALESCE(SUM(h), 0) AS s FROM"
        is_equal = self.value(
            f"SELECT a.n = b.n AND a.x = b.x AND a.s = b.s FROM ({total} ({a}) x) a, ({total} ({b}) y) b",
            [*params_old, *params_new],
        )
        if is_equal:
            return 0
        keys_a, keys_b = ([f"{alias}.k{number}" for number, _ in enumerate(self.marks)] for alias in "ab")
        match = same(keys_a, keys_b)
        return self.execute(
            f"INSERT INTO {names.log} ({self.log_columns}) "
            f"SELECT {', '.join(keys_a)}, IF(b.h IS NULL, 'verify: not in the new table', 'verify: differs') "
            f"FROM ({a}) a LEFT JOIN ({b}) b ON {match} WHERE b.h IS NULL OR b.h <> a.h UNION ALL "
            f"SELECT {', '.join(keys_b)}, 'verify: not in the old table' FROM ({b}) b LEFT JOIN ({a}) a ON {match} "
            "WHERE a.h IS NULL",
            [*params_old, *params_new, *params_new, *params_old],
        )

    @contextlib.contextmanager
    def _short_waits(self) -> Iterator[None]:
        """Have the session wait for a row for a second, the least."""
        before = self.value("SELECT @@SESSION.innodb_lock_wait_timeout")
        self.execute("SET SESSION innodb_lock_wait_timeout = 1")
        try:
            yield
        finally:
            with contextlib.suppress(DatabaseError):
                self.execute("SET SESSION innodb_lock_wait_timeout = %s", [before])


def _hashed(table: str, key: list[str], values: list[str], where: str) -> str:
    """Return a query of key and hash of the rows of a batch."""
    listed = ", ".join(f"{column} AS k{number}" for number, column in enumerate(key))
    return f"SELECT {listed}, CRC32(CONCAT_WS('#', {', '.join(values)})) AS h FROM {table} WHERE {where}"


def _text(value: str, column_type: str, charset: str | None) -> str:
    """Return a value as text, as a column of this type keeps it."""
    found = TYPE.fullmatch(column_type)
    assert found is not None
    name, length, rest = found["name"], found["length"] or "", found["rest"]
    if name in ("decimal", "date", "time", "datetime"):
        value = f"CAST({value} AS {name.upper()}{length})"
    elif name in INTEGERS:
        value = f"CAST({value} AS {'UNSIGNED' if 'unsigned' in rest else 'SIGNED'})"
    elif name in ("float", "double"):
        value = f"({value} + 0e0)"
    elif name == "uuid":
        value = f"CAST({value} AS UUID)"
    elif name == "bit":
        value = f"({value} + 0)"
    elif name in TEXTS and charset:
        value = f"CONVERT({value} USING {charset})"
    if name in AS_THEY_ARE:
        return f"COALESCE(HEX({value}), '-')"
    return f"COALESCE(HEX(CAST({value} AS CHAR)), '-')"
