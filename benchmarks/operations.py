"""A comparison of each ready-made operation with one raw SQL statement that does the same, on fresh tables."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

from django.db import connection, connections
from django.db.models import F

from benchmarks import table
from benchmarks.benchapp.models import Copy, Item
from benchmarks.options import Sizes
from benchmarks.ratios import shown, summary
from massmigration import api
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    CopyModelData,
    CopyModelDataToNamespace,
    DataOperation,
    DeleteModelData,
    MapFunctionOnEntities,
    MapFunctionOnObjects,
    OperationsMigration,
    RemoveFieldData,
)
from massmigration.states import Status

TITLE = "Operations, from launch to applied, to one raw statement that does the same"
DATABASES = ("postgresql", "mariadb", "mysql")

ELSEWHERE = "bench_elsewhere"
"""Another schema of the same server."""

COLUMNS = "id, name, slug, counter, payload"
UPPER = "UPDATE benchapp_item SET slug = upper(name)"
FILLED = "RemoveFieldData"

SET_BASED = 1.5
"""Target of what the engine says in SQL."""
CALLED = {"postgresql": 2.7, "mariadb": 3.0, "mysql": 4.0}
"""Target of what calls a function for every row, which no statement does: that of `update_fields`."""


Statement = str | dict[str, str]


def capitals(item: Item) -> str:
    return item.name.upper()


def set_slug(item: Item) -> None:
    item.slug = item.name.upper()


def set_entity(entity: dict[str, Any]) -> None:
    entity["slug"] = entity["name"].upper()


def copied_to(name: str) -> dict[str, str]:
    """Return the statements by the vendor's name. They leave existing rows alone, as the operations do."""
    insert = f"INSERT INTO {name} ({COLUMNS}) SELECT {COLUMNS} FROM benchapp_item"
    return {
        "postgresql": f"{insert} ON CONFLICT (id) DO NOTHING",
        "mysql": f"{insert} ON DUPLICATE KEY UPDATE {name}.id = {name}.id",
    }


ON_SETS: dict[str, tuple[DataOperation, Statement]] = {
    "AddFieldData, constant": (
        AddFieldData("benchapp.Item", "slug", "x"),
        "UPDATE benchapp_item SET slug = 'x' WHERE slug IS NULL",
    ),
    "AddFieldData, expression": (
        AddFieldData("benchapp.Item", "counter", F("counter") + 1, overwrite=True),
        "UPDATE benchapp_item SET counter = counter + 1",
    ),
    "CopyFieldData": (CopyFieldData("benchapp.Item", "name", "slug"), "UPDATE benchapp_item SET slug = name"),
    FILLED: (
        RemoveFieldData("benchapp.Item", "slug"),
        "UPDATE benchapp_item SET slug = NULL WHERE slug IS NOT NULL",
    ),
    "CopyModelData": (CopyModelData("benchapp.Item", "benchapp.Copy"), copied_to("benchapp_copy")),
    "CopyModelDataToNamespace, a schema": (
        CopyModelDataToNamespace("benchapp.Item", ELSEWHERE, to_model_name="Copy"),
        copied_to(f"{ELSEWHERE}.benchapp_copy"),
    ),
    "DeleteModelData": (DeleteModelData("benchapp.Item"), "DELETE FROM benchapp_item"),
    "DeleteModelData, no cascade": (DeleteModelData("benchapp.Item", cascade=False), "DELETE FROM benchapp_item"),
}
BY_OBJECT: dict[str, tuple[DataOperation, Statement]] = {
    "AddFieldData, function": (AddFieldData("benchapp.Item", "slug", capitals), UPPER),
    "MapFunctionOnObjects, update_fields": (
        MapFunctionOnObjects("benchapp.Item", set_slug, update_fields=["slug"]),
        UPPER,
    ),
    "MapFunctionOnEntities": (MapFunctionOnEntities("benchapp.Item", set_entity), UPPER),
}


def measure(sizes: Sizes) -> dict[str, Any]:
    pairs = ON_SETS | BY_OBJECT
    rng = random.Random(0)
    ratios: dict[str, list[float]] = {name: [] for name in pairs}
    raw: dict[str, list[float]] = {name: [] for name in pairs}
    for name in pairs:  # everything once, on small tables
        one_pair(name, *pairs[name], min(sizes.operated, 2000), rng)
    for _ in range(sizes.repeat):
        for name in rng.sample(list(pairs), len(pairs)):
            base, took = one_pair(name, *pairs[name], sizes.operated, rng)
            raw[name].append(base)
            ratios[name].append(took / base)
    return {
        "database": os.environ["BENCH_DATABASE"],
        "rows": sizes.operated,
        "raw_seconds": {name: summary(found) for name, found in raw.items()},
        "ratios": {name: summary(found) for name, found in ratios.items()},
    }


def one_pair(name: str, operation: DataOperation, statement: str, rows: int, rng: random.Random) -> tuple[float, float]:
    """Return the seconds of the statement and of the migration, run in random order, each on its own tables."""
    calls: dict[str, Callable[[], None]] = {
        "raw": lambda: execute(statement),
        "migration": lambda: migrate(operation),
    }
    seconds: dict[str, float] = {}
    left: dict[str, Any] = {}
    for which in rng.sample(list(calls), 2):
        rebuild(rows, filled=name == FILLED)
        seconds[which] = timed(calls[which])
        left[which] = result()
    assert left["raw"] == left["migration"], f"{name} and its statement leave different rows: {left}"
    return seconds["raw"], seconds["migration"]


def rebuild(rows: int, *, filled: bool) -> None:
    """Create both tables and the one in the other place again, as they are at first."""
    table.rebuild(rows)
    with connection.schema_editor() as editor:
        if Copy._meta.db_table in connection.introspection.table_names():
            editor.delete_model(Copy)
        editor.create_model(Copy)
    like = "(LIKE benchapp_copy INCLUDING ALL)" if connection.vendor == "postgresql" else "LIKE benchapp_copy"
    for statement in (
        f"CREATE SCHEMA IF NOT EXISTS {ELSEWHERE}",
        f"DROP TABLE IF EXISTS {ELSEWHERE}.benchapp_copy",
        f"CREATE TABLE {ELSEWHERE}.benchapp_copy {like}",
    ):
        execute(statement)
    if filled:
        execute("UPDATE benchapp_item SET slug = name")
    table.settle()


def execute(statement: Statement) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement if isinstance(statement, str) else statement[connection.vendor])


def result() -> list[tuple[Any, ...]]:
    """Return the number of rows and their contents for each table, to compare the results."""
    found = []
    with connection.cursor() as cursor:
        for name in ("benchapp_item", "benchapp_copy", f"{ELSEWHERE}.benchapp_copy"):
            cursor.execute(
                "SELECT count(*), sum(id), sum(counter), count(slug), sum(length(slug)), min(slug), max(slug), "
                f"sum(length(name)) FROM {name}"
            )
            found.append(tuple(cursor.fetchone()))
    return found


def migrate(operation: DataOperation) -> None:
    migration = type("Migration", (OperationsMigration,), {"operations": [operation]})("benchapp", "0009_bench")
    with store.registered(migration):
        api.launch(migration.key)
    record = MigrationRecord.objects.get(key=migration.key)
    assert record.status == Status.APPLIED, record.last_error


def timed(call: Callable[[], None]) -> float:
    connections["default"].ensure_connection()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def render(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['rows']:,} rows, on {found['database']}.", ""]
    lines += ["| operation | the statement | median | least to greatest | target | met |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name, ratio in found["ratios"].items():
        target = SET_BASED if name in ON_SETS else CALLED[found["database"]]
        met = "yes" if ratio["median"] <= target else "**no**"
        took = f"{found['raw_seconds'][name]['median'] * 1000:.0f} ms"
        lines.append(f"| {name} | {took} | {shown(ratio)} | <= {target}x | {met} |")
    return lines
