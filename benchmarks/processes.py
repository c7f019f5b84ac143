"""A measurement of what a second process gains when the operation computes for 100 us a row."""

from __future__ import annotations

import os
import random
import statistics
import time
from typing import Any

from django.test import override_settings

from benchmarks import table, workers
from benchmarks.benchapp import knobs
from benchmarks.options import Sizes
from massmigration.paging import sharding

TITLE = "Two processes, to one, when an operation computes for 100 us a row"
DATABASES = ("postgresql",)
KEY = "benchapp:0004_computing"
COST = 100e-6
TARGET = 0.6


def measure(sizes: Sizes) -> dict[str, Any]:
    knobs.loops = calibrated()
    sharding.MIN_SHARD_SIZE = 1000
    seconds: dict[int, list[float]] = {1: [], 2: []}
    load = os.getloadavg()[0]
    for number in range(sizes.heavy_repeat):
        order = [1, 2]
        random.Random(number).shuffle(order)
        for count in order:
            table.rebuild(sizes.heavy)
            with override_settings(MASSMIGRATION_BACKEND="benchmarks.workers.SharedBackend"):
                seconds[count].append(workers.run(KEY, count).seconds)
    ratios = [two / one for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {"seconds": seconds, "ratios": ratios, "best": min(ratios), "load": load}


def calibrated() -> int:
    """Return how many iterations of the operation's loop take 100 us."""
    turns = 200_000
    found = []
    for _ in range(5):
        start = time.process_time()
        number = 0
        for turn in range(turns):
            number += turn
        found.append(time.process_time() - start)
    return max(1, round(COST / (min(found) / turns)))


def render(result: dict[str, Any]) -> list[str]:
    median, best = statistics.median(result["ratios"]), result["best"]
    busy = result["load"] > 0.5
    met = "yes" if (best if busy else median) <= TARGET else "**no**"
    said = f"The machine was busy (load {result['load']:.1f}), so the best counts." if busy else ""
    line = f"Median {median:.2f}, best {best:.2f} of {len(result['ratios'])}; target: <= {TARGET}; met: {met}. {said}"
    return [line.strip()]
