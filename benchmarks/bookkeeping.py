"""A measurement of what a run does besides fetching rows, running the operation, and writing."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from django.db import connection

from benchmarks import methods, table
from benchmarks.options import Sizes
from benchmarks.ratios import shown, summary
from massmigration.executor.atomic_batch import AtomicBatchRunner, gc_paused
from massmigration.executor.objects import PendingUpdates
from massmigration.executor.processors import ObjectProcessor, SetProcessor
from massmigration.models import Event, ShardRecord

TITLE = "Bookkeeping, as a share of a whole run at the default batch sizes"
DATABASES = ("postgresql", "mariadb", "mysql")
TARGET = 3.0
METHODS = {"fields": methods.fields_path, "batch": methods.expression_path}
PARTS = [
    (ObjectProcessor, "fetch", "fetch"),
    (SetProcessor, "fetch", "fetch"),
    (ObjectProcessor, "process", "operation"),
    (SetProcessor, "process", "write"),
    (PendingUpdates, "write", "write"),
]


def measure(sizes: Sizes) -> dict[str, Any]:
    repeat = min(sizes.repeat, 3)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for _ in range(repeat):
        for name, method in METHODS.items():
            found[name].append(one_run(method, sizes.rows))
    return {
        name: {
            "share": summary([run["bookkeeping"] / run["total"] * 100 for run in runs]),
            **{part: summary([run.get(part, 0.0) / sizes.rows * 1e6 for run in runs]) for part in runs[0]},
            "batches": summary([run["batches"] for run in runs]),
            "queries_a_batch": summary([run["queries"] / run["batches"] for run in runs]),
            "shards": runs[0]["shards"],
            "events": runs[0]["events"],
        }
        for name, runs in found.items()
    }


def one_run(method: methods.Method, rows: int) -> dict[str, float]:
    """Return the seconds by part of a run over a fresh table. A commit writes, too."""
    table.rebuild(rows)
    spent: Counter[str] = Counter()
    queries = [0]

    def count(execute: Callable[..., Any], *args: Any) -> Any:
        queries[0] += 1
        return execute(*args)

    with timed(spent), connection.execute_wrapper(count):
        start = time.perf_counter()
        method((0, rows))
        total = time.perf_counter() - start
    batches = spent.pop("batches")
    known = sum(spent.values())
    counts = {"batches": batches, "queries": queries[0], "shards": ShardRecord.objects.count()}
    return {**spent, "total": total, "bookkeeping": total - known, **counts, "events": Event.objects.count()}


@contextlib.contextmanager
def timed(spent: Counter[str]) -> Iterator[None]:
    """Add up the seconds that the parts of a run take."""
    with contextlib.ExitStack() as stack:
        for owner, name, part in PARTS:
            stack.enter_context(replaced(owner, name, timing(getattr(owner, name), spent, part)))
        run, fetch = AtomicBatchRunner.run, ObjectProcessor.fetch
        fetched: list[Any] = []

        def keeping(*args: Any, **kwargs: Any) -> Any:
            batch = fetch(*args, **kwargs)
            fetched.append(batch)
            return batch

        @wraps(run)
        def counting(*args: Any) -> Any:
            spent["batches"] += 1  # type: ignore[assignment]
            with gc_paused():  # as the engine does; the collector would find the objects that are kept here
                outcome = run(*args)
                timing(fetched.clear, spent, "fetch")()  # freeing them is a part of their cost
            return outcome

        stack.enter_context(replaced(ObjectProcessor, "fetch", keeping))
        stack.enter_context(replaced(AtomicBatchRunner, "run", counting))
        stack.enter_context(replaced(connection, "_commit", timing(connection._commit, spent, "commit")))
        yield


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def timing(function: Callable[..., Any], spent: Any, part: str) -> Callable[..., Any]:
    @wraps(function)
    def timed_call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += time.perf_counter() - start

    return timed_call


def render(result: dict[str, Any]) -> list[str]:
    lines = ["| path | bookkeeping | least to greatest | fetch, operation, write, commit: us a row | batches | met |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, found in result.items():
        parts = ", ".join(
            f"{found[part]['median']:.2f}" for part in ("fetch", "operation", "write", "commit") if part in found
        )
        met = "yes" if found["share"]["median"] <= TARGET else "**no**"
        share = shown(found["share"], " %")
        lines.append(f"| {name} | {share} | {parts} | {found['batches']['median']:.0f} | {met} |")
    return [*lines, "", f"Target: at most {TARGET:.0f} %. Planning is a part of it."]
