"""Stuck jobs that must be sent again. A conditional UPDATE of `next_send_at` lets only one process send each job."""

from __future__ import annotations

import dataclasses
import datetime as dt

from django.db.models import F

from massmigration.conf import settings
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job, JobKind
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder import switch
from massmigration.recorder.shards import (
    LEASE_FREE,
    LONG_AGO,
    NOT_THROTTLED,
    job_for,
    skip_locked,
)
from massmigration.states import ACTIVE, Status

SENT = ACTIVE | {Status.WAITING}
"""The statuses of records whose jobs recovery sends."""

MAX_DOUBLINGS = 6
"""The maximum number of times that the wait between two sendings of a job is doubled: up to 64 leases."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StuckJob:
    """A job that only this process must send now."""

    job: Job
    backend: str


def take_stuck_jobs(db_alias: str) -> list[StuckJob]:
    """Return the stuck jobs: lost plans, unclaimed and abandoned shards, and stages that are not completed.

    No other process gets the same jobs.
    """
    if switch.get(db_alias):  # a job that arrives is dropped
        return []
    records = MigrationRecord.objects.using(db_alias).filter(status__in=SENT, is_managed=True)
    # A record that waits for an operator has the time of its next job only if it does something meanwhile.
    found = [record for record in records if record.status in ACTIVE or record.next_send_at is not None]
    return [due for record in found for due in _take_record(db_alias, record)]


def give_back(item: StuckJob) -> None:
    """Make a job due again for the next recovery, because the queue did not accept it."""
    job = item.job
    if job.kind is JobKind.SHARD:
        shards = ShardRecord.objects.using(job.db_alias).filter(
            LEASE_FREE, record_id=job.key, attempt_id=job.attempt_id, stage=job.stage, index=job.shard, is_done=False
        )
        shards.update(next_send_at=DatabaseNow(LONG_AGO))
    else:
        records = MigrationRecord.objects.using(job.db_alias).filter(key=job.key, attempt_id=job.attempt_id)
        records.filter(status__in=SENT).update(next_send_at=DatabaseNow())


def _take_record(db_alias: str, record: MigrationRecord) -> list[StuckJob]:
    if record.status == Status.QUEUED or not record.is_planned:
        return _take_whole(db_alias, record, JobKind.PLAN)
    undone = ShardRecord.objects.using(db_alias).filter(
        record_id=record.key, attempt_id=record.attempt_id, stage=record.stage, is_done=False
    )
    if not undone.exists():
        return _take_whole(db_alias, record, JobKind.FINISH)
    due = undone.filter(LEASE_FREE, NOT_THROTTLED, next_send_at__lte=DatabaseNow()).order_by("index")
    fields = ("pk", "index", "ticket", "lease_token", "next_send_at", "throttled_until")
    found = list(due.values_list(*fields, DatabaseNow()))
    turn = _turn(db_alias, record) if found else dt.timedelta(0)
    stage = record.job(JobKind.SHARD)
    return [
        StuckJob(job=job_for(stage, index, ticket), backend=record.backend)
        for pk, index, ticket, token, next_send_at, throttled_until, now in found
        # A shard with an expired lease has lost its job with its worker. A shard that waits for longer than the queue
        # can delay jobs has no job. The job of any other shard may still be in the queue: allow it time.
        if (token is not None or _has_none(next_send_at, throttled_until) or next_send_at + turn <= now)
        and _take_shard(db_alias, pk)
    ]


def next_wait(db_alias: str) -> dt.timedelta | None:
    """Return the shortest remaining wait of a throttled shard that has no job, or None if there is no such shard."""
    found = []
    for record in MigrationRecord.objects.using(db_alias).filter(status=Status.RUNNING, is_managed=True):
        shards = ShardRecord.objects.using(db_alias).filter(record_id=record.key, stage=record.stage, is_done=False)
        fields = ("next_send_at", "throttled_until")
        for next_send_at, until, now in shards.order_by().values_list(*fields, DatabaseNow()):
            if until is not None and next_send_at is not None and _has_none(next_send_at, until):
                found.append(max(until, next_send_at) - now)
    return min((wait for wait in found if wait > dt.timedelta(0)), default=None)


def _has_none(next_send_at: dt.datetime, throttled_until: dt.datetime | None) -> bool:
    """Return whether a shard was released without a job that arrives when its wait is over."""
    return throttled_until is not None and next_send_at < throttled_until + settings.LEASE / 2


def _turn(db_alias: str, record: MigrationRecord) -> dt.timedelta:
    """Return how long a shard's job may wait behind others in the queue; zero if no worker is left.

    Without this time, jobs that are still in the queue would be sent again, and each copy would send continuations.
    """
    shards = ShardRecord.objects.using(db_alias).filter(record_id=record.key, stage=record.stage)
    states = list(shards.values_list("is_done", "lease_until", "heartbeat_at", DatabaseNow()))
    if not any(beat and beat > now - settings.LEASE for _, _, beat, now in states):
        return dt.timedelta(0)
    undone = sum(not is_done for is_done, *_ in states)
    at_work = sum(bool(until and until > now) for is_done, until, _, now in states if not is_done)
    return settings.JOB_DURATION * undone / max(at_work, 1)


def _take_whole(db_alias: str, record: MigrationRecord, kind: JobKind) -> list[StuckJob]:
    mine = MigrationRecord.objects.using(db_alias).filter(key=record.key)
    # In a document database, other processes cannot write what a transaction has read.
    if dialect_of(db_alias).reads_block_writes and not mine.filter(next_send_at__lte=DatabaseNow()).exists():
        return []
    with engine_transaction(db_alias):
        locked = skip_locked(mine).first()
        taken = locked and mine.filter(
            attempt_id=record.attempt_id,
            stage=record.stage,
            is_planned=record.is_planned,
            status__in=SENT,
            next_send_at__lte=DatabaseNow(),
        ).update(next_send_at=DatabaseNow(_wait(locked.send_count)), send_count=F("send_count") + 1)
    return [StuckJob(job=record.job(kind), backend=record.backend)] if taken else []


def _take_shard(db_alias: str, pk: int) -> bool:
    with engine_transaction(db_alias):
        mine = ShardRecord.objects.using(db_alias).filter(pk=pk)
        locked = skip_locked(mine).first()
        if locked is None:
            return False
        due = mine.filter(LEASE_FREE, NOT_THROTTLED, is_done=False, next_send_at__lte=DatabaseNow())
        wait = DatabaseNow(_wait(locked.send_count))
        return bool(due.update(next_send_at=wait, send_count=F("send_count") + 1))


def _wait(send_count: int) -> dt.timedelta:
    lease: dt.timedelta = settings.LEASE
    return lease * int(2 ** min(send_count, MAX_DOUBLINGS))
