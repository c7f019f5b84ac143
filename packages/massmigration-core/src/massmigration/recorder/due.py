"""Takes what is due to be sent again. The UPDATE of `next_send_at` is conditional, so only one healer sends an item."""

from __future__ import annotations

import dataclasses
import datetime as dt

from django.db.models import F

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.jobs import Job, JobKind
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder.locks import unless_locked
from massmigration.recorder.shards import LEASE_FREE
from massmigration.states import ACTIVE, Status
from massmigration.stores import is_of_documents
from massmigration.transactions import engine_transaction

MAX_DOUBLINGS = 6
"""The wait between two sendings of one item grows to 64 leases at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A job that this healer, and no other, is to send now."""

    job: Job
    backend: str


def take(db_alias: str) -> list[Due]:
    """Everything that is stuck on this database: lost plans, unclaimed and abandoned shards, unfinished stages."""
    records = MigrationRecord.objects.using(db_alias).filter(status__in=ACTIVE, is_managed=True)
    return [due for record in records for due in _take_record(db_alias, record)]


def _take_record(db_alias: str, record: MigrationRecord) -> list[Due]:
    if record.status == Status.QUEUED or not record.is_planned:
        return _take_whole(db_alias, record, JobKind.PLAN)
    undone = ShardRecord.objects.using(db_alias).filter(
        record_id=record.key, attempt_id=record.attempt_id, stage=record.stage, is_done=False
    )
    if not undone.exists():
        return _take_whole(db_alias, record, JobKind.FINISH)
    due = undone.filter(LEASE_FREE, next_send_at__lte=DatabaseNow()).order_by("index")
    found = list(due.values_list("pk", "index", "lease_token", "next_send_at", DatabaseNow()))
    turn = _turn(db_alias, record) if found else dt.timedelta(0)
    return [
        Due(job=_job(db_alias, record, JobKind.SHARD, index), backend=record.backend)
        for pk, index, token, next_send_at, now in found
        # An owner that has died had the job; without one, it may be in the queue.
        if (token is not None or next_send_at + turn <= now) and _take_shard(db_alias, pk)
    ]


def _turn(db_alias: str, record: MigrationRecord) -> dt.timedelta:
    """How long a shard's job may wait for the others' in the queue; nothing, where no worker is left that gets there.

    Jobs that only wait would be sent again, and each of them goes on to send its own continuations.
    """
    shards = ShardRecord.objects.using(db_alias).filter(record_id=record.key, stage=record.stage)
    states = list(shards.values_list("is_done", "lease_until", "heartbeat_at", DatabaseNow()))
    if not any(beat and beat > now - settings.LEASE for _, _, beat, now in states):
        return dt.timedelta(0)
    undone = sum(not is_done for is_done, *_ in states)
    at_work = sum(bool(until and until > now) for is_done, until, _, now in states if not is_done)
    return settings.JOB_DURATION * undone / max(at_work, 1)


def _take_whole(db_alias: str, record: MigrationRecord, kind: JobKind) -> list[Due]:
    mine = MigrationRecord.objects.using(db_alias).filter(key=record.key)
    # What a transaction has read of documents, others cannot write meanwhile.
    if is_of_documents(db_alias) and not mine.filter(next_send_at__lte=DatabaseNow()).exists():
        return []
    with engine_transaction(db_alias):
        locked = unless_locked(mine).first()
        taken = locked and mine.filter(
            attempt_id=record.attempt_id,
            stage=record.stage,
            is_planned=record.is_planned,
            status__in=ACTIVE,
            next_send_at__lte=DatabaseNow(),
        ).update(next_send_at=DatabaseNow(_wait(locked.send_count)), send_count=F("send_count") + 1)
    return [Due(job=_job(db_alias, record, kind), backend=record.backend)] if taken else []


def _take_shard(db_alias: str, pk: int) -> bool:
    with engine_transaction(db_alias):
        mine = ShardRecord.objects.using(db_alias).filter(pk=pk)
        locked = unless_locked(mine).first()
        if locked is None:
            return False
        due = mine.filter(LEASE_FREE, is_done=False, next_send_at__lte=DatabaseNow())
        wait = DatabaseNow(_wait(locked.send_count))
        return bool(due.update(next_send_at=wait, send_count=F("send_count") + 1))


def _wait(send_count: int) -> dt.timedelta:
    lease: dt.timedelta = settings.LEASE
    return lease * int(2 ** min(send_count, MAX_DOUBLINGS))


def _job(db_alias: str, record: MigrationRecord, kind: JobKind, shard: int = 0) -> Job:
    return Job(
        kind=kind,
        key=record.key,
        db_alias=db_alias,
        attempt_id=str(record.attempt_id),
        stage=record.stage,
        shard=shard,
    )
