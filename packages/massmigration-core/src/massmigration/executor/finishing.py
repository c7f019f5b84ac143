"""Looks whether a stage is done, and sends the next one's plan."""

from __future__ import annotations

import dataclasses
import logging

from massmigration.executor.transport import Transport
from massmigration.jobs import Job, JobKind
from massmigration.recorder import finishing
from massmigration.recorder.finishing import Look

logger = logging.getLogger(__name__)


def finish(job: Job, stage_count: int, transport: Transport) -> None:
    """Move the record on if the job's stage is done."""
    found = finishing.look(job, stage_count)
    if found is Look.NOTHING:
        return
    logger.info("Migration %s on database %s, stage %s: %s.", job.key, job.db_alias, job.stage, found.value)
    if found is Look.NEXT_STAGE:
        transport.enqueue(dataclasses.replace(job, kind=JobKind.PLAN, stage=job.stage + 1, shard=0))
