"""`SQLiteDialect`."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import IntegrityError
from django.db.models import DecimalField, Field, Model, QuerySet

from massmigration.dialects.base import (
    Access,
    AccessPath,
    Dialect,
    RowCopy,
    insert_on_conflict,
)
from massmigration.dialects.writer import Fields, Row

MAX_HELD = 1.0
GAP = 0.11
"""Waiting writers try the lock every 100 ms at worst. After so many seconds of batches, there is a gap in which each of
them tries. A rare gap that lets every writer in is cheaper, and fairer, than many that few find."""

MAX_DIGITS = 15
"""Decimals are stored as floating-point numbers, which are exact up to this number of digits."""


class SQLiteDialect(Dialect):
    """SQLite, which has one writer at a time."""

    supports_parallel_shards = False
    max_batch_duration = dt.timedelta(milliseconds=250)
    has_schemas = False
    marks_transactions = True

    @contextlib.contextmanager
    def transaction(self, *, idle_limit: dt.timedelta, lock_wait: dt.timedelta | None) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with self._begin_immediate():
                stack.enter_context(super().transaction(idle_limit=idle_limit, lock_wait=lock_wait))
            yield

    @contextlib.contextmanager
    def _begin_immediate(self) -> Iterator[None]:
        """Take the write lock at BEGIN: SQLite refuses at once to upgrade a lock within a transaction."""
        connection: Any = self.connection
        # Django calls this method to begin; an option for it exists only since Django 5.1.
        connection._start_transaction_under_autocommit = lambda: connection.cursor().execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            del connection._start_transaction_under_autocommit

    def yield_write_lock(self, held: float) -> bool:
        if held < MAX_HELD:
            return False
        time.sleep(GAP)
        return True

    def can_write_in_bulk(self, fields: Fields) -> bool:
        return self.are_plain(fields)

    def update_statement(self, model: Any, fields: Fields, rows: Sequence[Row]) -> int:
        table, pk, columns = self.names(model, fields)
        sql = f"UPDATE {table} SET {', '.join(f'{name} = %s' for name in columns)} WHERE {pk} = %s"
        with self.connection.cursor() as cursor:
            cursor.executemany(sql, rows)
            return int(cursor.rowcount)

    def copies_in_one_statement(self, *, has_other_unique: bool) -> bool:
        return True

    def copy_statements(self, copy: RowCopy) -> list[str]:
        return [insert_on_conflict(copy)]

    def inexact_key(self, field: Field[Any, Any]) -> str:
        digits = getattr(field, "max_digits", None) or MAX_DIGITS + 1
        if isinstance(field, DecimalField) and digits > MAX_DIGITS:
            return f"has more than {MAX_DIGITS} digits, which SQLite does not store exactly"
        return ""

    def trigger_names(self, model: type[Model]) -> list[str]:
        found = self.rows(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s ORDER BY 1",
            [model._meta.db_table],
        )
        return [name for (name,) in found]

    def dangling_references(self) -> frozenset[tuple[Any, ...]]:
        return frozenset(self.rows("PRAGMA foreign_key_check"))

    def check_references(self, before: frozenset[tuple[Any, ...]]) -> None:
        # COMMIT ignores the references that dangled before the transaction.
        for table, _, referenced, _ in self.dangling_references() - before:
            raise IntegrityError(f"A row of {table!r} would refer to a row of {referenced!r} that does not exist.")

    def explain_access(self, queryset: QuerySet[Any]) -> AccessPath:
        return access_path(queryset.explain())


def access_path(explained: str) -> AccessPath:
    """Return the access path that the output of EXPLAIN QUERY PLAN describes."""
    found = [line.split("USING ", 1)[1].split(" (")[0] for line in explained.splitlines() if "USING " in line]
    indexes = tuple(name.removeprefix("COVERING ").removeprefix("INDEX ") for name in found if "B-TREE" not in name)
    if "USE TEMP B-TREE FOR ORDER BY" in explained:
        return Access.SORT, indexes
    return Access.SCAN if "SCAN" in explained else Access.SEEK, indexes
