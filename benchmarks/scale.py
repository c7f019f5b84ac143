"""The cost of a run of 1e9 rows, computed from measurements: messages, bookkeeping rows, transactions, time."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.methods import EXPRESSION, FIELDS
from benchmarks.options import Sizes
from massmigration.conf import Settings
from massmigration.recorder.work_stealing import MAX_SHARDS_FACTOR

TITLE = "A run of 1e9 rows, computed from the parts measured above"
DATABASES = ()
ROWS = 10**9
WORKERS = (1, 8)

PATHS = {FIELDS: ("fields", Settings.MAX_BATCH_SIZE), EXPRESSION: ("batch", Settings.MAX_SET_SIZE)}

# Used without measurements: seconds per row of one raw UPDATE, its multiple, and statements per batch.
ASSUMED_RAW = 7.5e-6
ASSUMED_RATIO = {FIELDS: 2.5, EXPRESSION: 1.25}
ASSUMED_QUERIES = 9.0

SHARD_ROW_BYTES = 400
EVENTS = 3
MESSAGES_BESIDES = 2
"""The plan job, and one completion check."""


def measure(sizes: Sizes, results: dict[str, Any]) -> dict[str, Any]:
    databases = sorted(results.get("speed", {})) or ["postgresql"]
    return {
        database: {
            path: {str(workers): cost(path, workers, database, results) for workers in WORKERS} for path in PATHS
        }
        for database in databases
        if database != "sqlite"
    }


def cost(path: str, workers: int, database: str, results: dict[str, Any]) -> dict[str, float]:
    """Return the cost of one run, if every one of the workers is as fast as a single one."""
    speed = results.get("speed", {}).get(database, {})
    raw = speed.get("raw_seconds", {}).get("median", ASSUMED_RAW)
    ratio = speed.get("ratios", {}).get(path, {}).get("median", ASSUMED_RATIO[path])
    short, largest = PATHS[path]
    measured = results.get("bookkeeping", {}).get(database, {}).get(short, {})
    queries = measured.get("queries_a_batch", {}).get("median", ASSUMED_QUERIES)
    row = raw * ratio
    size = min(largest, max(1, int(Settings.BATCH_DURATION.total_seconds() / row)))
    batches = math.ceil(ROWS / size)
    work = ROWS * row
    shards = max(Settings.SHARDS, workers)
    jobs = shards + math.ceil(work / Settings.JOB_DURATION.total_seconds())
    return {
        "us_a_row": row * 1e6,
        "batch_rows": size,
        "transactions": batches + 3 * jobs + 3,
        "statements": batches * queries,
        "messages": jobs + MESSAGES_BESIDES,
        "shard_rows": shards,
        "shard_rows_at_most": MAX_SHARDS_FACTOR * Settings.SHARDS,
        "records_and_events": 1 + EVENTS,
        "hours": work / workers / 3600,
    }


def render(result: dict[str, Any]) -> list[str]:
    lines = [
        "| database | path | workers | us a row | rows a batch | transactions | messages | shard rows | hours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for database, paths in result.items():
        for path, by_workers in paths.items():
            for workers, found in by_workers.items():
                shards = f"{found['shard_rows']:.0f}, {found['shard_rows_at_most']:.0f} at most"
                lines.append(
                    f"| {database} | {path} | {workers} | {found['us_a_row']:.1f} | {found['batch_rows']:,} | "
                    f"{found['transactions']:,} | {found['messages']:,} | {shards} | {found['hours']:.1f} |"
                )
    about = (
        "The table assumes that each worker is as fast as a single one, as on a database with free cores. In addition, "
        f"there are one record, {EVENTS} events and a row for each failed object. A shard is one row, which each batch "
        "updates twice. Planning uses the estimates of the database's query planner, and reads no rows."
    )
    return [*lines, "", about]
