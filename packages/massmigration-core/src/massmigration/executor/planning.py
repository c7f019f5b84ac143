"""Cuts a stage into shards and sends their jobs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

from django.db import connections

from massmigration.conf import settings
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.estimates import estimate_table
from massmigration.exceptions import MassMigrationError
from massmigration.executor.finishing import fail, finish
from massmigration.executor.transport import Transport
from massmigration.jobs import Delivery, Job, JobKind
from massmigration.recorder import records, shards
from massmigration.sharding import ONCE, Plan
from massmigration.signals import announce, migration_started
from massmigration.states import ACTIVE
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)

SETS_A_SHARD = 4
"""How many of the largest batches are worth a shard, where one statement does a batch."""


def run(job: Job, stages: Sequence[Stage], transport: Transport) -> Delivery | None:
    """Plan the stage unless it is planned, then send what is not done. With nothing left to send, look."""
    record = records.get(job.db_alias, job.key)
    if record is None or str(record.attempt_id) != job.attempt_id or record.stage != job.stage:
        logger.info("Dropped %s: its attempt or stage is over.", job)
        return None
    if record.status not in ACTIVE:
        return None
    if not record.is_planned:
        try:
            plan = _cut(stages[job.stage], job.db_alias, transport)
        except Exception as error:
            if is_transient(error):
                return Delivery(job=job, delay=settings.LEASE / 4)
            fail(job, _told(error), cause=error)
            return None
        if records.plan(job, plan, pass_number=record.pass_number) and record.started_at is None:
            announce(migration_started, job.key, job.db_alias)
    left = shards.undone(job)
    if left:
        jobs = [dataclasses.replace(job, kind=JobKind.SHARD, shard=index) for index in left]
        transport.enqueue_all(jobs, finish=dataclasses.replace(job, kind=JobKind.FINISH))
    else:
        finish(job, stages, transport)
    return None


def _told(error: Exception) -> str:
    """What we raise ourselves says all there is to say."""
    return str(error) if isinstance(error, MassMigrationError) else f"{type(error).__name__}: {error}"


def _cut(stage: Stage, db_alias: str, transport: Transport) -> Plan:
    if not isinstance(stage, MappedStage):
        return ONCE
    queryset = stage.rows(db_alias)
    # SQLite has one writer at a time: more shards only wait for each other.
    count = 1 if connections[db_alias].vendor == "sqlite" else settings.SHARDS
    if stage.is_statement and count > 1:
        # Statements soon fill the largest batches: shards of few of them cost more than they gain.
        size = estimate_table(queryset.model, db_alias)
        count = count if size is None else min(count, max(-(-size // (SETS_A_SHARD * settings.MAX_SET_SIZE)), 1))
    return transport.split(queryset, stage.keyset(queryset.model), count)
