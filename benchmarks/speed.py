"""A measurement of methods as ratios to one raw UPDATE, interleaved in random order over fresh slices of one table."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import connection

from benchmarks import methods, predecessor, table
from benchmarks.methods import Span
from benchmarks.options import Sizes
from benchmarks.ratios import shown, summary

TITLE = "Time per row, to one raw UPDATE of the same repetition"
DATABASES = ("postgresql", "mariadb", "mysql", "sqlite")

# The design's targets: at most so many times one raw UPDATE.
TARGETS = {
    "postgresql": {methods.EXPRESSION: 1.25, methods.FIELDS: 2.7, methods.AGAIN: 1.3},
    "mariadb": {methods.EXPRESSION: 1.25, methods.FIELDS: 3.0, methods.AGAIN: 1.3},
    "mysql": {methods.EXPRESSION: 1.3, methods.FIELDS: 4.0, methods.AGAIN: 1.3},
    "sqlite": {methods.EXPRESSION: 1.5, methods.FIELDS: 6.5, methods.AGAIN: 1.3},
}
# `update_fields` must be at least so many times faster than these methods.
FASTER = {
    "postgresql": {methods.SAVE_LOOP: 20, methods.PREDECESSOR: 25, methods.BULK_UPDATE: 5},
    "mariadb": {methods.SAVE_LOOP: 20, methods.PREDECESSOR: 25, methods.BULK_UPDATE: 5},
    "mysql": {methods.SAVE_LOOP: 20, methods.PREDECESSOR: 25, methods.BULK_UPDATE: 5},
    "sqlite": {methods.SAVE_LOOP: 15, methods.PREDECESSOR: 20, methods.BULK_UPDATE: 10},
}


def measure(sizes: Sizes) -> dict[str, Any]:
    ratios: dict[str, list[float]] = {}
    base: list[float] = []
    old = predecessor.Predecessor()
    warm_up()
    for number in range(sizes.repeat):
        raw, times = repetition(sizes, random.Random(number), old)
        base.append(raw)
        for name, seconds in times.items():
            ratios.setdefault(name, []).append(seconds if name == methods.AGAIN else seconds / raw)
    return {
        "database": os.environ["BENCH_DATABASE"],
        "version": ".".join(map(str, connection.get_database_version())),
        "driver": settings.DRIVER,
        "rows": sizes.rows,
        "raw_seconds": summary(base),
        "ratios": {name: summary(found) for name, found in ratios.items()},
        "faster": faster(ratios),
        "remark": old.problem,
    }


def warm_up() -> None:
    """Run every method once, on a small table."""
    table.rebuild(10_000)
    slices = table.Slices(10_000)
    for _, method in methods.METHODS.values():
        method(slices.take(1000))


def repetition(sizes: Sizes, rng: random.Random, old: predecessor.Predecessor) -> tuple[float, dict[str, float]]:
    """Return seconds per row of the raw UPDATE (a mean of two) and of each method; the rerun relative to reading."""
    table.rebuild(sizes.rows)
    slices = table.Slices(sizes.rows)
    raw: list[float] = []
    found: dict[str, float] = {}
    calls: list[Callable[[], object]] = [
        lambda: raw.append(per_row(methods.raw_update, slices.take(sizes.fast))),
        lambda: raw.append(per_row(methods.raw_update, slices.take(sizes.fast))),
        lambda: found.update({methods.AGAIN: rerun(slices.take(sizes.fast), rng)}),
        lambda: found.update(old.measure(sizes.slow)),
    ]
    for name, (size, method) in methods.METHODS.items():
        rows = getattr(sizes, size)
        calls.append(
            lambda name=name, method=method, rows=rows: found.update({name: per_row(method, slices.take(rows))})
        )
    rng.shuffle(calls)
    for call in calls:
        call()
    return sum(raw) / len(raw), found


def per_row(method: methods.Method, span: Span) -> float:
    """Return the seconds per row. The server writes everything out before the next measurement."""
    start = time.perf_counter()
    method(span)
    seconds = time.perf_counter() - start
    table.check(span)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
    return seconds / (span[1] - span[0])


def rerun(span: Span, rng: random.Random) -> float:
    """Return the time of a run that finds nothing to change, relative to only reading the same rows."""
    methods.fields_path(span)
    table.settle()
    methods.read_only(span)
    pair = [methods.read_only, methods.fields_path]
    seconds: dict[Any, float] = dict.fromkeys(pair, 0.0)
    for _ in range(2):
        rng.shuffle(pair)
        for method in pair:
            seconds[method] += per_row(method, span)
    return seconds[methods.fields_path] / seconds[methods.read_only]


def faster(ratios: dict[str, list[float]]) -> dict[str, Any]:
    """Return how many times faster `update_fields` is, in the same repetition."""
    return {
        name: summary([slow / fast for slow, fast in zip(found, ratios[methods.FIELDS], strict=False)])
        for name, found in ratios.items()
        if name not in (methods.FIELDS, methods.EXPRESSION, methods.AGAIN)
    }


def render(result: dict[str, Any]) -> list[str]:
    database = result["database"]
    targets, wanted = TARGETS[database], FASTER[database]
    head = f"{result['rows']:,} rows, version {result['version']}, driver {result['driver']}; "
    lines = [head + f"one raw UPDATE: {result['raw_seconds']['median'] * 1e6:.2f} us a row.", ""]
    lines += ["| method | median | least to greatest | target | met |", "| --- | --- | --- | --- | --- |"]
    for name, found in sorted(result["ratios"].items(), key=lambda item: float(item[1]["median"])):
        target = targets.get(name)
        met = "" if target is None else ("yes" if found["median"] <= target else "**no**")
        lines.append(f"| {name} | {shown(found)} | {'' if target is None else f'<= {target}x'} | {met} |")
    lines += ["", "| `update_fields` is faster than | by | least to greatest | target | met |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, found in result["faster"].items():
        least = wanted.get(name)
        met = "" if least is None else ("yes" if found["median"] >= least else "**no**")
        lines.append(f"| {name} | {shown(found)} | {'' if least is None else f'>= {least}x'} | {met} |")
    return [*lines, *(["", result["remark"]] if result["remark"] else [])]
