"""A measurement of how long an UPDATE of a site waits for a row of the current batch if every row takes 50 ms."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

from django.db import connection, connections

from benchmarks import table
from benchmarks.benchapp.models import Item
from benchmarks.options import Sizes
from massmigration import api
from massmigration.conf import settings
from massmigration.models import MigrationRecord

TITLE = "Longest wait of a writer, 600 rows of 50 ms each"
DATABASES = ("postgresql", "mariadb", "mysql")
KEYS = {"operation": "benchapp:0006_slow_objects", "operation_batch": "benchapp:0007_slow_batch"}
ROWS = 600
TARGET = 3.0
PAUSE = 0.005


def measure(sizes: Sizes) -> dict[str, Any]:
    return {name: one_run(key) for name, key in KEYS.items()}


def one_run(key: str) -> dict[str, Any]:
    """Return how long a writer waited while a migration ran, in seconds."""
    table.rebuild(ROWS)
    has_ended = threading.Event()
    waits: list[float] = []
    writer = threading.Thread(target=write, args=(has_ended, waits))
    writer.start()
    started = time.perf_counter()
    try:
        api.launch(key)
    finally:
        seconds = time.perf_counter() - started
        has_ended.set()
        writer.join()
    record = MigrationRecord.objects.get(key=key)
    assert record.status == "applied", record.last_error or record.status
    batch = settings.BATCH_DURATION.total_seconds()
    return {
        "longest": max(waits),
        "median": statistics.median(waits),
        "updates": len(waits),
        "seconds": seconds,
        "multiple": max(waits) / batch,
    }


def write(has_ended: threading.Event, waits: list[float]) -> None:
    """Update the first row that is not done, which the batch under way has locked, again and again."""
    try:
        while not has_ended.is_set():
            pk = Item.objects.filter(slug=None).order_by("pk").values_list("pk", flat=True).first()
            if pk is None:
                return
            started = time.perf_counter()
            Item.objects.filter(pk=pk).update(payload="changed by the site")
            waits.append(time.perf_counter() - started)
            time.sleep(PAUSE)
    finally:
        connections[connection.alias].close()


def render(result: dict[str, Any]) -> list[str]:
    lines = ["| path | longest wait | in batches' target time | median | updates | run | met |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, found in result.items():
        met = "yes" if found["multiple"] <= TARGET else "**no**"
        lines.append(
            f"| `{name}` | {found['longest']:.2f} s | {found['multiple']:.1f}x | {found['median']:.2f} s "
            f"| {found['updates']} | {found['seconds']:.0f} s | {met} |"
        )
    return [*lines, "", f"Target: at most {TARGET:.0f} times `MASSMIGRATION_BATCH_DURATION`."]
