"""Ends a stage: looks whether it is done and sends the next one's plan, or fails the migration."""

from __future__ import annotations

import dataclasses
import logging

from massmigration.executor.transport import Transport
from massmigration.jobs import Job, JobKind
from massmigration.recorder import finishing
from massmigration.recorder.finishing import Look
from massmigration.signals import announce, migration_applied, migration_failed

logger = logging.getLogger(__name__)


def finish(job: Job, stage_count: int, transport: Transport) -> None:
    """Move the record on if the job's stage is done."""
    found = finishing.look(job, stage_count)
    if found is Look.NOTHING:
        return
    logger.info("Migration %s on database %s, stage %s: %s.", job.key, job.db_alias, job.stage, found.value)
    if found is Look.APPLIED:
        announce(migration_applied, job.key, job.db_alias)
    if found is Look.FAILED:
        announce(migration_failed, job.key, job.db_alias, error="some objects failed")
    if found is Look.NEXT_STAGE:
        transport.enqueue(dataclasses.replace(job, kind=JobKind.PLAN, stage=job.stage + 1, shard=0))


def fail(job: Job, error: str) -> None:
    """Move the record to failed, if this attempt is still active."""
    if finishing.fail(job, error):
        logger.error("Migration %s on database %s failed: %s", job.key, job.db_alias, error)
        announce(migration_failed, job.key, job.db_alias, error=error)
