"""Runs one job: plan a stage, work at a shard, or look whether all is done."""

from __future__ import annotations

from massmigration.executor.running import run
from massmigration.executor.transport import Transport

__all__ = ["Transport", "run"]
