"""Measures each ready-made operation against one raw SQL statement that does the same."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

from django.db import connection, connections
from django.db.models import F

from benchmarks import table
from benchmarks.benchapp.models import Copy, Item
from massmigration import api
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    CopyModelData,
    DataOperation,
    DeleteModelData,
    MapFunctionOnEntities,
    MapFunctionOnObjects,
    OperationsMigration,
    RemoveFieldData,
)
from massmigration.states import Status

COLUMNS = "id, name, slug, counter, payload"


def capitals(item: Item) -> str:
    return item.name.upper()


def set_slug(item: Item) -> None:
    item.slug = item.name.upper()


def set_entity(entity: dict[str, object]) -> None:
    entity["slug"] = str(entity["name"]).upper()


UPPER = "UPDATE benchapp_item SET slug = upper(name)"

SET_BASED: dict[str, tuple[DataOperation, str]] = {
    "AddFieldData, constant": (
        AddFieldData("benchapp.Item", "slug", "x"),
        "UPDATE benchapp_item SET slug = 'x' WHERE slug IS NULL",
    ),
    "AddFieldData, expression": (
        AddFieldData("benchapp.Item", "counter", F("counter") + 1, overwrite=True),
        "UPDATE benchapp_item SET counter = counter + 1",
    ),
    "CopyFieldData": (CopyFieldData("benchapp.Item", "name", "slug"), "UPDATE benchapp_item SET slug = name"),
    "RemoveFieldData": (
        RemoveFieldData("benchapp.Item", "slug"),
        "UPDATE benchapp_item SET slug = NULL WHERE slug IS NOT NULL",
    ),
    "CopyModelData": (
        CopyModelData("benchapp.Item", "benchapp.Copy"),
        f"INSERT INTO benchapp_copy ({COLUMNS}) SELECT {COLUMNS} FROM benchapp_item",
    ),
    "DeleteModelData": (DeleteModelData("benchapp.Item"), "DELETE FROM benchapp_item"),
    "DeleteModelData, no cascade": (DeleteModelData("benchapp.Item", cascade=False), "DELETE FROM benchapp_item"),
}

BY_OBJECT: dict[str, tuple[DataOperation, str]] = {
    "AddFieldData, function": (AddFieldData("benchapp.Item", "slug", capitals), UPPER),
    "MapFunctionOnObjects, update_fields": (
        MapFunctionOnObjects("benchapp.Item", set_slug, update_fields=["slug"]),
        UPPER,
    ),
    "MapFunctionOnEntities": (MapFunctionOnEntities("benchapp.Item", set_entity), UPPER),
}


def compare(rows: int, repeat: int) -> Iterator[tuple[str, float]]:
    """Median ratios to the raw statement, each pair on a fresh table."""
    for name, (operation, statement) in (SET_BASED | BY_OBJECT).items():
        ratios = []
        for _ in range(repeat):
            _rebuild(rows, filled=name == "RemoveFieldData")
            base = _seconds(lambda statement=statement: _execute(statement))
            _rebuild(rows, filled=name == "RemoveFieldData")
            ratios.append(_seconds(lambda operation=operation: _migrate(operation, rows)) / base)
        yield name, statistics.median(ratios)


def _rebuild(rows: int, *, filled: bool) -> None:
    table.rebuild(rows)
    with connection.schema_editor() as editor:
        if Copy._meta.db_table in connection.introspection.table_names():
            editor.delete_model(Copy)
        editor.create_model(Copy)
    if filled:
        _execute("UPDATE benchapp_item SET slug = name")
        table.settle()


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def _migrate(operation: DataOperation, rows: int) -> None:
    migration = type("Migration", (OperationsMigration,), {"operations": [operation]})("benchapp", "0009_bench")
    with store.registered(migration):
        api.launch(migration.key)
    record = MigrationRecord.objects.get(key=migration.key)
    assert record.status == Status.APPLIED, record.last_error


def _seconds(call: Callable[[], None]) -> float:
    connections["default"].ensure_connection()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
