"""Measures methods in one process, interleaved, as ratios to the raw UPDATE of the same repetition."""

from __future__ import annotations

import resource
import statistics
import sys
import time

from benchmarks import methods, table
from benchmarks.benchapp.models import Item


def seconds(method: methods.Method) -> float:
    start = time.perf_counter()
    method(Item.objects.all())
    return time.perf_counter() - start


def compare(rows: int, sample: int, repeat: int) -> dict[str, float]:
    """Median ratios of time per row to the raw UPDATE's. Slow methods are measured on `sample` rows."""
    ratios: dict[str, list[float]] = {}
    for _ in range(repeat):
        base = {}
        for count in (sample, rows):
            table.rebuild(count)
            base[count] = seconds(methods.raw_update)
        for name, method in methods.SLOW.items():
            table.rebuild(sample)
            ratios.setdefault(name, []).append(seconds(method) / base[sample])
        for name, method in methods.FAST.items():
            table.rebuild(rows)
            ratios.setdefault(name, []).append(seconds(method) / base[rows])
            table.check(rows)
        table.rebuild(rows)
        seconds(methods.fields_path)
        floor = seconds(methods.read_only)
        name = "update_fields path, nothing changed, to reading only"
        ratios.setdefault(name, []).append(seconds(methods.fields_path) / floor)
    return {name: statistics.median(found) for name, found in ratios.items()}


def peak_memory(rows: int, method_name: str) -> int:
    """The peak resident memory of this process in bytes, after one run. For a process of its own."""
    table.rebuild(rows)
    seconds(methods.FAST[method_name])
    table.check(rows)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
