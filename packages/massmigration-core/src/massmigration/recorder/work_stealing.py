"""Work stealing, which splits a shard of another worker for a worker without work."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

from django.db.models import F, Max

from massmigration.conf import settings
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder import shards
from massmigration.recorder.shards import LEASE_FREE, Claim, skip_locked
from massmigration.states import Status

WAIT = dt.timedelta(seconds=2)
"""The maximum time to wait for the end of the owner's batch."""

HANDED_OVER = dt.timedelta(seconds=1)
"""The time after a release in which the shard's continuation is expected to claim it."""

MAX_SHARDS_FACTOR = 32
"""The maximum number of a stage's shards, as a multiple of the planned number."""

MAX_CANDIDATES = 8
"""The maximum number of shards that are measured."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A snapshot of a shard that another worker is processing. The worker continues in the meantime."""

    pk: int
    after: list[Any] | None
    upper: list[Any]
    batch_size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """The shards of a stage that are not done."""

    victims: list[Victim]
    has_waiting: bool
    """Whether a shard has no worker. Its job waits in the queue."""

    has_handed_over: bool
    """Whether all shards without a worker were released only just now. Their next jobs may claim them soon."""


def prospects(job: Job) -> Prospects:
    """Return the stage's shards that can be split, with the least processed first.

    If a shard has no worker, return that instead of shards to split.
    """
    undone = ShardRecord.objects.using(job.db_alias).filter(
        record_id=job.key, attempt_id=job.attempt_id, stage=job.stage, is_done=False
    )
    free = undone.filter(LEASE_FREE)
    waiting = free.count()
    if waiting:
        recent = free.filter(heartbeat_at__gt=DatabaseNow(-HANDED_OVER)).count()
        return Prospects(victims=[], has_waiting=True, has_handed_over=waiting == recent)
    victims = [
        Victim(pk=shard.pk, after=shard.cursor or shard.lower, upper=shard.upper, batch_size=shard.batch_size)
        for shard in undone.filter(is_retry=False).order_by("processed", "index")[:MAX_CANDIDATES]
        if shard.upper is not None
    ]
    return Prospects(victims=victims, has_waiting=False, has_handed_over=False)


def split(
    job: Job,
    victim: Victim,
    middle: list[Any],
    *,
    worker: str,
    is_ahead: Callable[[list[Any] | None], bool],
    at_most: int | None = None,
) -> Claim | None:
    """Move the rows after `middle` from the victim to a new shard, and return a claim of the new shard.

    Return None if the shard has changed, the record is locked or has changed, or the stage has too many shards.
    `at_most`: the maximum number of workers at the same time, in addition to that of the pace.
    `is_ahead`: returns whether a cursor is before the middle, because the owner has continued since the middle was
    chosen.

    Both changes commit together. The owner detects the new fence, reads its shard again and continues up to `middle`.
    The fence increases by two, because an increase of one marks a batch that began and was committed without its end.

    The transaction waits for the lock of the shard but not for the lock of the record, so their order does not matter.
    The lock of the record prevents a replacement of the attempt, which would miss a shard that is being inserted.
    """
    token = uuid.uuid4()
    with engine_transaction(job.db_alias, lock_wait=WAIT):
        mine = ShardRecord.objects.using(job.db_alias).filter(
            pk=victim.pk, attempt_id=job.attempt_id, is_done=False, lease_token__isnull=False
        )
        dialect_of(job.db_alias).queue_for_row(victim.pk)
        shard = mine.select_for_update().first()
        if shard is None or shard.upper != victim.upper or not is_ahead(shard.cursor or shard.lower):
            return None
        index = _next_index(job)
        if index is None:
            return None
        job = shards.job_for(job, index, None)
        run = shards.read_run(job)
        if not run.is_running or shards.is_full(job, run.pace.limit_of_workers(at_most)):
            return None
        shortened = mine.filter(fence=shard.fence, lease_token=shard.lease_token).update(
            upper=middle, fence=F("fence") + 2
        )
        if not shortened:
            return None
        taken = ShardRecord.objects.using(job.db_alias).create(
            record_id=job.key,
            attempt_id=job.attempt_id,
            stage=job.stage,
            index=index,
            lower=middle,
            upper=shard.upper,
            batch_size=shard.batch_size,
            lease_token=token,
            lease_until=DatabaseNow(settings.LEASE),
            worker=worker,
            heartbeat_at=DatabaseNow(),
            next_send_at=DatabaseNow(settings.LEASE),
            ticket=job.ticket,
        )
    return shards.claim_of(job, taken, token, run.pace)


def _next_index(job: Job) -> int | None:
    """Lock the record and return the index of the next shard.

    Return None if the record is locked, does not run this attempt and stage, or has too many shards.
    """
    record = MigrationRecord.objects.using(job.db_alias).filter(
        key=job.key, attempt_id=job.attempt_id, stage=job.stage, is_planned=True, status=Status.RUNNING
    )
    if skip_locked(record).first() is None:
        return None
    stage = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)
    index = int(stage.aggregate(Max("index"))["index__max"]) + 1
    return index if index < MAX_SHARDS_FACTOR * settings.SHARDS else None
