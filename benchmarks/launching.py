"""A measurement of the time before the first batch, and of pages that show a run, on a small and on a large table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import table
from benchmarks.benchapp import knobs
from benchmarks.options import Sizes
from massmigration import api, overview, progress
from massmigration.backends import handler
from massmigration.backends.dummy import DummyBackend
from massmigration.backends.worker import perform_with
from massmigration.models import ShardRecord

TITLE = "To launch, plan, list and show a run, before its first batch"
DATABASES = ("postgresql", "mariadb", "mysql")
KEY = "benchapp:0001_fields"
TIMES = 5


def measure(sizes: Sizes) -> dict[str, Any]:
    return {str(rows): measured(rows) for rows in (sizes.rows, sizes.rows * sizes.huge)}


def measured(rows: int) -> dict[str, float]:
    """Return the milliseconds of each step, the least of several, and how uneven the shards are."""
    table.rebuild(rows, width=1)
    knobs.span = None
    found = [once() for _ in range(TIMES)]
    spread = largest_share(rows)
    return {step: min(each[step] for each in found) for step in found[0]} | {"largest": spread}


def once() -> dict[str, float]:
    table.forget_runs()
    backend = DummyBackend()
    with handler.overriding(KEY, backend):
        times = {"launch": took(lambda: api.launch(KEY))}
        ((plan, _),) = backend.sent
        times["plan"] = took(lambda: perform_with(plan, backend))
        times["list"] = took(lambda: overview.read("default"))
        times["show"] = took(lambda: progress.read_snapshot(KEY, "default"))
    return times


def took(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def largest_share(rows: int) -> float:
    """Return the rows of the largest shard, relative to an even share. The ids are dense."""
    uppers = [(shard.upper or [rows])[0] for shard in ShardRecord.objects.order_by("index")]
    widths = [upper - lower for lower, upper in zip([0, *uppers], uppers, strict=False)]
    return max(widths) * len(widths) / rows


def render(result: dict[str, Any]) -> list[str]:
    lines = ["| rows | launch | plan | list | show | largest shard, relative to an even share |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for rows, found in result.items():
        steps = " | ".join(f"{found[step]:.1f} ms" for step in ("launch", "plan", "list", "show"))
        lines.append(f"| {int(rows):,} | {steps} | {found['largest']:.2f}x |")
    return lines
