"""The waits that throttles ask for, saved in the shard's row, and the slots of a rate limit, saved in the record's."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from django.db.models import Q

from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder.shards import Claim

NO_TIME = dt.timedelta(0)

OF_OPERATION = "the operation: "
"""The beginning of the reason for a wait that the operation asked for, not a throttle."""

SHARE = 0.25
"""The part of the rows that a limit allows per second that all running batches together may contain."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ActiveWorkers:
    """The active workers of a migration, and the longest wait after a completed shard."""

    workers: int
    """The number of the stage's shards with a worker and of the record's throttled shards; at least 1."""

    owed: dt.timedelta = NO_TIME
    """The longest remaining wait after the last batch of a completed shard."""

    owed_to: str = ""
    """The name of the throttle that asked for this wait."""

    now: dt.datetime | None = None
    """The database's time, or None if no shard was read."""


def active_workers(job: Job) -> ActiveWorkers:
    """Return the workers that are active in the job's migration."""
    shards = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key)
    if dialect_of(job.db_alias).has_sql:  # a document database compares one field in a query
        shards = shards.filter(Q(stage=job.stage, is_done=False) | Q(throttled_until__gt=DatabaseNow()))
    found = list(
        shards.order_by().values_list(
            "stage", "is_done", "lease_until", "throttled_until", "throttled_by", DatabaseNow()
        )
    )
    count, owed, owed_to, now = 0, NO_TIME, "", None
    for stage, is_done, lease_until, throttled_until, throttled_by, now in found:
        waits = bool(throttled_until and throttled_until > now)
        is_held = bool(stage == job.stage and not is_done and lease_until and lease_until > now)
        count += waits or is_held
        if waits and is_done and throttled_until - now > owed:
            owed, owed_to = throttled_until - now, throttled_by
    return ActiveWorkers(workers=max(count, 1), owed=owed, owed_to=owed_to, now=now)


def keep(claim: Claim, wait: dt.timedelta, by: str) -> bool:
    """Prevent the shard's next batch until `wait` is over. Return False if another worker owns the shard.

    The lease does not change. It excludes other workers meanwhile, and a worker that dies before this call leaves it.
    """
    return bool(_mine(claim).update(throttled_until=DatabaseNow(wait), throttled_by=by))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The start and the maximum size of a shard's next batch."""

    rows: int
    wait: dt.timedelta = NO_TIME
    is_taken: bool = True
    """False if the wait is too long to take the slot now. Ask again when the wait is over."""


def take_slot(claim: Claim, limit: float, rows: int, by: str, *, patience: dt.timedelta) -> Slot:
    """Take the next slot of a migration's limit for a batch of at most `rows` rows. `limit`: rows per second.

    `MigrationRecord.limited_until` is the end of the last slot that any worker took for any shard. The slot of a batch
    of n rows begins there and lasts n / limit seconds; the batch begins with the slot. The record's lock puts the
    workers in order. A slot stays taken even if its batch fails, so crashed workers and duplicate jobs cannot exceed
    the limit.

    A batch has at most its share of a quarter of the rows that the limit allows per second. A slot that begins later
    than `patience` from now is not taken, because the worker may not return for it; only the wait is saved.
    """
    job = claim.job
    with engine_transaction(job.db_alias):
        record = MigrationRecord.objects.using(job.db_alias).filter(key=job.key, attempt_id=job.attempt_id)
        found: Any = record.select_for_update().values_list("limited_until").first()
        # The time must be read while the lock is held, in a statement that began after the lock was acquired.
        others = active_workers(job)
        rows = max(min(rows, int(limit * SHARE / others.workers)), 1)
        if found is None or others.now is None:
            return Slot(rows=rows)  # the attempt was replaced; the batch will detect it
        begins = max(found[0] or others.now, others.now)
        slot = Slot(rows=rows, wait=begins - others.now, is_taken=begins - others.now <= patience)
        if slot.is_taken:
            record.update(limited_until=begins + dt.timedelta(seconds=rows / limit))
        if slot.wait:
            _mine(claim).update(throttled_until=begins, throttled_by=by)
    return slot


def _mine(claim: Claim) -> Any:
    return ShardRecord.objects.using(claim.job.db_alias).filter(pk=claim.pk, lease_token=claim.token)
