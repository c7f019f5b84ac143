"""The benchmark's table, and slices of it that nothing has written to."""

from __future__ import annotations

from django.db import connection

from benchmarks.benchapp.models import Item

AT_ONCE = 1_000_000
"""Rows inserted by one statement, whose numbers MySQL and MariaDB make in a temporary table."""

_NAME = {"mysql": "CONCAT('Item number ', n)"}
_NUMBERS = {"postgresql": "generate_series(1, {rows}) AS n"}
_RECURSION = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows}) "


def _fill(vendor: str, rows: int, offset: int, width: int) -> str:
    table = connection.ops.quote_name(Item._meta.db_table)
    recursion = "" if vendor in _NUMBERS else _RECURSION.format(rows=rows)
    name = _NAME.get(vendor, "'Item number ' || n")
    source = _NUMBERS.get(vendor, "numbers").format(rows=rows)
    values = f"SELECT n + {offset}, {name}, NULL, n % 1000, '{'x' * width}' FROM {source}"
    return f"INSERT INTO {table} (id, name, slug, counter, payload) {recursion}{values}"


def rebuild(rows: int, *, sparse: int = 0, sparse_from: int = 10**12, width: int = 120) -> None:
    """Drop the table, fill it again with ids from 1, and with `sparse` more from far off; have the server settle.

    `width`: bytes of each row besides what is worked at.
    """
    forget_runs()
    with connection.schema_editor() as editor:
        if Item._meta.db_table in connection.introspection.table_names():
            editor.delete_model(Item)
        editor.create_model(Item)
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            limit = "max_recursive_iterations" if connection.mysql_is_mariadb else "cte_max_recursion_depth"
            cursor.execute(f"SET SESSION {limit} = {AT_ONCE + sparse + 1}")
        for start in range(0, rows, AT_ONCE):
            cursor.execute(_fill(connection.vendor, min(AT_ONCE, rows - start), start, width))
        if sparse:
            cursor.execute(_fill(connection.vendor, sparse, sparse_from, width))
    settle()
    assert Item.objects.count() == rows + sparse


def settle() -> None:
    """Have the server write everything out."""
    table = connection.ops.quote_name(Item._meta.db_table)
    statements = {
        "postgresql": [f"VACUUM ANALYZE {table}", "CHECKPOINT"],
        "mysql": [f"ANALYZE TABLE {table}"],
        "sqlite": ["PRAGMA wal_checkpoint(TRUNCATE)"],
    }
    with connection.cursor() as cursor:
        for statement in statements[connection.vendor]:
            cursor.execute(statement)
            if connection.vendor != "postgresql":
                cursor.fetchall()


def forget_runs() -> None:
    """Delete all records of the engine."""
    from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord

    for model in (FailedObject, ShardRecord, MigrationRecord, Event):
        model.objects.all().delete()


class Slices:
    """Ranges of ids, each of which is used once."""

    def __init__(self, rows: int) -> None:
        self._next, self._rows = 0, rows

    def take(self, count: int) -> tuple[int, int]:
        """Return the bounds of the next slice: exclusive, inclusive."""
        start, self._next = self._next, self._next + count
        assert self._next <= self._rows, f"{self._rows} rows are too few for these slices."
        return start, self._next


def check(span: tuple[int, int]) -> None:
    """Assert that every row was done."""
    left = Item.objects.filter(pk__gt=span[0], pk__lte=span[1], slug=None).count()
    assert left == 0, f"{left} rows of {span} were not done"
