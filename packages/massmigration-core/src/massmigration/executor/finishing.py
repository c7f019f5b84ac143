"""Ends a stage: looks whether it is done and sends the next plan, or fails the migration."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from massmigration.definitions.stages import Stage
from massmigration.executor.proving import prove
from massmigration.executor.transport import Transport
from massmigration.jobs import Job, JobKind
from massmigration.recorder import finishing, records
from massmigration.recorder.finishing import Look
from massmigration.signals import announce, migration_applied, migration_failed
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)


def finish(job: Job, stages: Sequence[Stage], transport: Transport) -> None:
    """Move the record on if the job's stage is done."""
    try:
        has_ended, proof = prove(job, stages[job.stage])
    except Exception as error:  # the queryset and `remaining` are the users' code
        if is_transient(error):
            raise
        logger.exception("What is left of migration %s could not be found out.", job.key)
        fail(job, f"{type(error).__name__}: {error}")
        return
    found = finishing.look(job, len(stages), proof) if has_ended else Look.NOTHING
    if found is Look.NOTHING:
        return
    if found is Look.FAILED:
        record = records.get(job.db_alias, job.key)
        _tell_failed(job, record.last_error if record else found.value)
        return
    logger.info("Migration %s on database %s, stage %s: %s.", job.key, job.db_alias, job.stage, found.value)
    if found is Look.APPLIED:
        announce(migration_applied, job.key, job.db_alias)
    if found is Look.ANOTHER_PASS:
        transport.enqueue(dataclasses.replace(job, kind=JobKind.PLAN, shard=0))
    if found is Look.NEXT_STAGE:
        transport.enqueue(dataclasses.replace(job, kind=JobKind.PLAN, stage=job.stage + 1, shard=0))


def fail(job: Job, error: str, *, cause: BaseException | None = None) -> None:
    """Move the record to failed, if this attempt is still active. `cause`: its traceback goes to the log."""
    if finishing.fail(job, error):
        _tell_failed(job, error, cause)


def _tell_failed(job: Job, error: str, cause: BaseException | None = None) -> None:
    logger.error("Migration %s on database %s failed: %s", job.key, job.db_alias, error, exc_info=cause)
    announce(migration_failed, job.key, job.db_alias, error=error)
