"""The plan of a stage, which splits it into shards and sends their jobs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
from collections.abc import Callable, Sequence

from massmigration import text
from massmigration.conf import settings
from massmigration.definitions import callables
from massmigration.definitions.stages import MappedStage, Stage, WaitStage
from massmigration.dialects import dialect_of
from massmigration.executor.batch_size import max_size_of
from massmigration.executor.completion import fail, finish
from massmigration.executor.errors import OperationRaised, operation_blamed
from massmigration.executor.transport import Transport
from massmigration.jobs import Delivery, Job, JobKind
from massmigration.paging.sharding import SINGLE_SHARD, ShardPlan
from massmigration.recorder import records, shards, switch
from massmigration.recorder.events import announce
from massmigration.signals import migration_started, migration_waiting
from massmigration.states import ACTIVE, Status

logger = logging.getLogger(__name__)

unseen: set[str] = set()
"""Attempts for which a job in this process found no record: they have ended, or their record is elsewhere."""

SETS_A_SHARD = 4
"""The minimum size of a shard in batches of the largest size, if one statement processes a batch."""


def run(job: Job, stages: Sequence[Stage], transport: Transport) -> Delivery | None:
    """Plan the stage unless it is planned, and send its open shards. If there are none, run the completion check.

    A stage that waits for an operator is not planned. It counts as planned, without shards, when it has proceeded.
    """
    record = records.get(job.db_alias, job.key)
    if record is None or str(record.attempt_id) != job.attempt_id:
        note_unseen(job, is_over=record is not None)
        return None
    if record.stage != job.stage:
        logger.info("Dropped %s: its stage is over.", job)
        return None
    if record.status not in (*ACTIVE, Status.WAITING) or switch.get(job.db_alias):
        return None
    stage = stages[job.stage]
    if record.status == Status.WAITING:
        if isinstance(stage, WaitStage) and stage.meanwhile is not None:
            _work_meanwhile(job, stage.meanwhile)
        return None
    if isinstance(stage, WaitStage) and not record.is_planned:
        if records.wait(job, stage.question, has_work=stage.meanwhile is not None):
            announce(migration_waiting, job.key, job.db_alias, question=stage.question)
        return None
    if not record.is_planned:
        try:
            with operation_blamed(), callables.exits_refused(f"Migration {job.key!r}"):
                plan = _plan_of(stage, job.db_alias, transport)
        except OperationRaised as raised:
            fail(job, text.told(raised.error), cause=raised.__cause__)
            return None
        if records.plan(job, plan, pass_number=record.pass_number) and record.started_at is None:
            announce(migration_started, job.key, job.db_alias)
    left = shards.open_shards(job)
    if left:
        transport.enqueue_all(left, finish=dataclasses.replace(job, kind=JobKind.FINISH))
    else:
        finish(job, stages, transport)
    return None


def _work_meanwhile(job: Job, meanwhile: Callable[[str], dt.timedelta]) -> None:
    try:
        with operation_blamed(), callables.exits_refused(f"Migration {job.key!r}"):
            wait = callables.call(meanwhile, job.db_alias)
    except OperationRaised as raised:
        told = "The work of migration %s while it waits has failed. Recovery will call it again. %s"
        logger.warning(told, job.key, text.line(raised.error))
        return
    records.put_off(job, wait)


def note_unseen(job: Job, *, is_over: bool = False, error: BaseException | None = None) -> None:
    """Log once that a job is dropped because there is no record of its attempt.

    `is_over`: there is a record of another attempt. `error`: there is no table of records.
    """
    if job.attempt_id in unseen:
        return
    unseen.add(job.attempt_id)
    if is_over:
        logger.info("Dropped %s: its attempt is over.", job)
        return
    logger.error(
        "Dropped a job of migration %r on database %r: it has no record here%s. Either the record was forgotten, or "
        "this connection reads another schema than the connection that launched it. This happens in threads outside "
        "of a schema_context of django-tenants.",
        job.key,
        job.db_alias,
        f" ({text.safe(error).strip()})" if error else "",
    )


def _plan_of(stage: Stage, db_alias: str, transport: Transport) -> ShardPlan:
    """Return the shards of the stage: one if it has no queryset."""
    if not isinstance(stage, MappedStage):
        return SINGLE_SHARD
    queryset = stage.rows(db_alias)
    dialect = dialect_of(db_alias)
    count = settings.SHARDS if dialect.supports_parallel_shards else 1
    if stage.is_statement and count > 1:
        # Batches of statements soon reach the largest size. Shards of a few such batches cost more than they gain.
        size = dialect.estimated_table_rows(queryset.model)
        count = count if size is None else min(count, max(-(-size // (SETS_A_SHARD * max_size_of(stage))), 1))
    return transport.split(queryset, stage.keyset(queryset.model), count)
