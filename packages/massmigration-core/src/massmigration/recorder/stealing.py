"""Splits a shard that another worker is at, for one that has run out of work."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

from django.db import connections
from django.db.models import F, Max

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.jobs import Job
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder import shards
from massmigration.recorder.locks import in_turn, unless_locked
from massmigration.recorder.shards import LEASE_FREE, Claim
from massmigration.states import Status
from massmigration.transactions import engine_transaction

WAIT = dt.timedelta(seconds=2)
"""How long to wait for the end of the owner's batch."""

HANDED_OVER = dt.timedelta(seconds=1)
"""How long ago a job gave back a shard that its continuation is on the way to."""

MAX_SHARDS_FACTOR = 32
"""A stage's shards are split until there are this many times the planned number."""

MAX_CANDIDATES = 8
"""How many shards are looked at more closely."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """A shard that a worker is at, as it was read: it goes on meanwhile."""

    pk: int
    after: list[Any] | None
    upper: list[Any]
    batch_size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """What is left of a stage."""

    victims: list[Victim]
    has_waiting: bool
    """Is there a shard that nobody is at? Its message waits for a worker."""

    has_handed_over: bool
    """Was it given back only just now? Then the next job may be at it in a moment."""


def can_steal(db_alias: str) -> bool:
    """Whether the engine can lock a row without waiting for it. SQLite cannot, and has one worker."""
    return bool(connections[db_alias].features.has_select_for_update_skip_locked)


def prospects(job: Job) -> Prospects:
    """The shards of the job's stage that workers are at, those that have done least first."""
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
        for shard in undone.filter(is_redo=False).order_by("processed", "index")[:MAX_CANDIDATES]
        if shard.upper is not None
    ]
    return Prospects(victims=victims, has_waiting=False, has_handed_over=False)


def split(
    job: Job, victim: Victim, middle: list[Any], *, worker: str, is_ahead: Callable[[list[Any] | None], bool]
) -> Claim | None:
    """Take what lies behind `middle` from the victim, as a new shard that is claimed already.

    Its owner finds another fence, reads its shard again and goes on up to `middle`: both changes commit together.
    `is_ahead` says whether a cursor stands before the middle; the owner has gone on since it was chosen.
    None: the shard has changed, or the record does, or there are shards enough.

    The shard is waited for, the record is not, so that the order of the two locks does not matter. The record's
    keeps this attempt's shards together: whatever replaces the attempt would overlook one that is being inserted.
    """
    token = uuid.uuid4()
    with engine_transaction(job.db_alias, lock_wait=WAIT):
        mine = ShardRecord.objects.using(job.db_alias).filter(
            pk=victim.pk, attempt_id=job.attempt_id, is_done=False, lease_token__isnull=False
        )
        in_turn(job.db_alias, victim.pk)
        shard = mine.select_for_update().first()
        if shard is None or shard.upper != victim.upper or not is_ahead(shard.cursor or shard.lower):
            return None
        index = _next_index(job)
        if index is None:
            return None
        shortened = mine.filter(fence=shard.fence, lease_token=shard.lease_token).update(
            upper=middle, fence=F("fence") + 1
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
        )
    return shards.claim_of(dataclasses.replace(job, shard=index), taken, token)


def _next_index(job: Job) -> int | None:
    """Lock the record, if it runs this attempt and nobody else has locked it; the index for one more shard."""
    record = MigrationRecord.objects.using(job.db_alias).filter(
        key=job.key, attempt_id=job.attempt_id, stage=job.stage, is_planned=True, status=Status.RUNNING
    )
    if unless_locked(record).first() is None:
        return None
    stage = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)
    index = int(stage.aggregate(Max("index"))["index__max"]) + 1
    return index if index < MAX_SHARDS_FACTOR * settings.SHARDS else None
