"""The executor, which runs one job: plan a stage, process a shard, or check whether all shards are done."""

from __future__ import annotations

from massmigration.executor.job import run
from massmigration.executor.transport import Transport

__all__ = ["Transport", "run"]
