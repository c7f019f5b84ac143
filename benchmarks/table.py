"""Makes the benchmark's table, fresh for every measurement: a second UPDATE of one row costs another price."""

from __future__ import annotations

from django.db import connection

from benchmarks.benchapp.models import Item
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord

_NAME = {"mysql": "CONCAT('Item number ', n)"}
_NUMBERS = {"postgresql": "generate_series(1, {rows}) AS n"}
_RECURSION = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows}) "


def _fill(vendor: str, rows: int) -> str:
    table = connection.ops.quote_name(Item._meta.db_table)
    recursion = "" if vendor in _NUMBERS else _RECURSION.format(rows=rows)
    name = _NAME.get(vendor, "'Item number ' || n")
    source = _NUMBERS.get(vendor, "numbers").format(rows=rows)
    values = f"SELECT {name}, NULL, n % 1000, '{'x' * 120}' FROM {source}"
    return f"INSERT INTO {table} (name, slug, counter, payload) {recursion}{values}"


def rebuild(rows: int) -> None:
    """Drop the table, fill it again, and have the server settle."""
    for model in (FailedObject, ShardRecord, MigrationRecord, Event):
        model.objects.all().delete()
    with connection.schema_editor() as editor:
        if Item._meta.db_table in connection.introspection.table_names():
            editor.delete_model(Item)
        editor.create_model(Item)
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute(f"SET SESSION max_recursive_iterations = {rows + 1}")
        cursor.execute(_fill(connection.vendor, rows))
        table = connection.ops.quote_name(Item._meta.db_table)
        settle = {"postgresql": ["VACUUM ANALYZE " + table, "CHECKPOINT"], "mysql": ["ANALYZE TABLE " + table]}
        for statement in settle.get(connection.vendor, []):
            cursor.execute(statement)
    assert Item.objects.count() == rows


def check(rows: int) -> None:
    """Every row was done."""
    left = Item.objects.filter(slug=None).count()
    assert left == 0, f"{left} of {rows} rows were not done"
