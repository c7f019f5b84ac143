"""A measurement of how long workers have nothing to do when keys are sparse, and when a part of the table is slow."""

from __future__ import annotations

import importlib
from typing import Any

from django.test import override_settings

from benchmarks import table, workers
from benchmarks.options import Sizes
from massmigration.conf import settings

TITLE = "Idle workers: nine tenths of the ids dense, a tenth from 1e12 on, four workers"
DATABASES = ("postgresql", "mariadb", "mysql")
KEY = "benchapp:0005_waiting"
WORKERS = 4
FAR = 10**12
TARGET = 10.0


def measure(sizes: Sizes) -> dict[str, Any]:
    found = {}
    migration = importlib.import_module("benchmarks.benchapp.massmigrations.0005_waiting").Migration
    dense = sizes.skewed * 9 // 10
    shard = sizes.skewed // settings.SHARDS
    for name, slow in {"uniform cost": (0, 0), "one shard ten times as slow": (3 * shard, 4 * shard)}.items():
        table.rebuild(dense, sparse=sizes.skewed - dense, sparse_from=FAR)
        migration.slow = slow
        with override_settings(MASSMIGRATION_BACKEND="benchmarks.workers.SharedBackend"):
            run = workers.run(KEY, WORKERS)
        found[name] = {"seconds": run.seconds, "idle": run.idle, "shards": run.shards}
    return found


def render(result: dict[str, Any]) -> list[str]:
    lines = ["| rows | seconds | shards in the end | idle, each worker | met |", "| --- | --- | --- | --- | --- |"]
    for name, found in result.items():
        idle = ", ".join(f"{share * 100:.1f} %" for share in sorted(found["idle"]))
        met = "yes" if max(found["idle"]) * 100 <= TARGET else "**no**"
        lines.append(f"| {name} | {found['seconds']:.1f} | {found['shards']} | {idle} | {met} |")
    return [*lines, "", f"Target: at most {TARGET:.0f} % each. Idle is all time outside of batches."]
