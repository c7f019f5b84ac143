"""A measurement of what a site with 200 writes a second notices of a run: its 99th percentile without and with it."""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import connection, connections
from django.test import override_settings

from benchmarks import table, workers
from benchmarks.benchapp.models import Item
from benchmarks.options import Sizes
from massmigration.paging import sharding

TITLE = "Site with 200 writes a second, two workers"
DATABASES = ("postgresql", "mariadb", "mysql")
KEY = "benchapp:0001_fields"
RATE = 200
CLIENTS = 8
QUIET = 10.0
"""Seconds that the site is measured without a run."""

TARGET = 1.3
LEVELS = ("steady", "full")

_context = multiprocessing.get_context("fork")


def measure(sizes: Sizes) -> dict[str, Any]:
    sharding.MIN_SHARD_SIZE = 1000
    found: dict[str, Any] = {"rows": sizes.fast, "load": os.getloadavg()[0], "runs": []}
    with override_settings(MASSMIGRATION_BACKEND="benchmarks.workers.SharedBackend", MASSMIGRATION_SHARDS=4):
        for number in range(min(sizes.repeat, 3)):
            order = list(LEVELS)
            random.Random(number).shuffle(order)
            table.rebuild(sizes.fast)
            one = {"none": under_load(lambda: time.sleep(QUIET))}
            for level in order:
                table.rebuild(sizes.fast)
                with override_settings(MASSMIGRATION_PACE=level):
                    one[level] = under_load(lambda: workers.run(KEY, 2).seconds)
            found["runs"].append(one)
        found["alone"] = {level: [] for level in LEVELS}
        for number in range(2 * min(sizes.repeat, 3)):  # in alternation
            level = LEVELS[number % 2]
            table.rebuild(sizes.fast)
            with override_settings(MASSMIGRATION_PACE=level):
                found["alone"][level].append(workers.run(KEY, 2).seconds)
    return found


def under_load(call: Callable[[], Any]) -> dict[str, Any]:
    """Call a function while a site writes. Return the site's latencies, in seconds, and the function's result."""
    pks = list(Item.objects.order_by("pk").values_list("pk", flat=True))
    connections.close_all()
    has_ended, answers = _context.Event(), _context.SimpleQueue()
    site = _context.Process(target=_write, args=(pks[0], pks[-1], has_ended, answers), daemon=True)
    site.start()
    answers.get()  # it has connected
    try:
        result = call()
    finally:
        has_ended.set()
        latencies = sorted(answers.get())
        site.join()
    return {
        "p50": statistics.median(latencies),
        "p99": latencies[int(len(latencies) * 0.99)],
        "longest": latencies[-1],
        "writes": len(latencies),
        "seconds": result,
    }


def _write(first: int, last: int, has_ended: Any, answers: Any) -> None:
    """Send `RATE` writes a second. A latency counts from the time at which a write is due, however late the site is."""
    latencies: list[float] = []
    ready = threading.Barrier(CLIENTS + 1)
    begun: list[float] = []

    def client(number: int) -> None:
        rng = random.Random(number)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            ready.wait()
            ready.wait()
            turn = number
            while not has_ended.is_set():
                due = begun[0] + turn / RATE
                time.sleep(max(due - time.monotonic(), 0))
                cursor.execute(
                    f"UPDATE {Item._meta.db_table} SET payload = %s WHERE id = %s",
                    ["changed by the site", rng.randint(first, last)],
                )
                latencies.append(time.monotonic() - due)
                turn += CLIENTS
        connections.close_all()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun.append(time.monotonic())
    answers.put(None)
    ready.wait()
    for thread in threads:
        thread.join()
    answers.put(latencies)


def render(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['rows']} rows; load of the machine at the beginning: {result['load']:.1f}. Milliseconds.",
        "",
        "| run | p99 without | `steady` | `full` | `steady` / without | `full` / without | time `steady` / `full` |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, one in enumerate(result["runs"], 1):
        none, steady, full = (one[name]["p99"] * 1000 for name in ("none", *LEVELS))
        seconds = one["steady"]["seconds"] / one["full"]["seconds"]
        lines.append(
            f"| {number} | {none:.1f} | {steady:.1f} | {full:.1f} | {steady / none:.2f} | {full / none:.2f} "
            f"| {one['steady']['seconds']:.1f} s / {one['full']['seconds']:.1f} s = {seconds:.2f} |"
        )
    ratios = [one["steady"]["p99"] / one["none"]["p99"] for one in result["runs"]]
    met = "yes" if statistics.median(ratios) <= TARGET else "**no**"
    alone = {level: statistics.median(result["alone"][level]) for level in LEVELS}
    return [
        *lines,
        "",
        f"Target: median of `steady` / without at most {TARGET}; it is {statistics.median(ratios):.2f}; met: {met}.",
        f"Without a site: `steady` {alone['steady']:.2f} s, `full` {alone['full']:.2f} s.",
        f"Ratio, measured in alternation: {alone['steady'] / alone['full']:.3f}.",
    ]
