"""Writes shards: the claim, the two ends of a batch, the release."""

from __future__ import annotations

import dataclasses
import datetime as dt
import uuid
from typing import Any

from django.db.models import F, Q

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.jobs import Job
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder.locks import in_turn, unless_locked
from massmigration.states import Status
from massmigration.stores import is_of_documents
from massmigration.transactions import engine_transaction

LONG_AGO = -dt.timedelta(days=365)
"""Longer than a job may wait in a queue."""

LEASE_FREE = Q(lease_until__isnull=True) | Q(lease_until__lte=DatabaseNow())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A shard that this worker owns, as it stood when it was last read or written."""

    job: Job
    pk: int
    token: uuid.UUID
    fence: int
    cursor: list[Any] | None
    lower: list[Any] | None
    upper: list[Any] | None
    batch_size: int
    has_failures: bool
    is_redo: bool = False
    has_stayed: bool = False
    processed: int = 0
    failed_in_a_row: int = 0

    @property
    def after(self) -> list[Any] | None:
        """The key that the next batch starts after."""
        return self.cursor if self.cursor is not None else self.lower


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a batch has to report."""

    cursor: list[Any] | None
    is_done: bool
    processed: int = 0
    skipped: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    """How many objects the shard has behind it that failed, one after the other."""

    batch_size: int
    has_stayed: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Why a claim was lost."""

    is_running: bool
    is_done: bool
    lease_left: dt.timedelta


def undone(job: Job) -> list[int]:
    """The indexes of the stage's shards that are not done, if the record is running this attempt and stage."""
    if not is_running(job):
        return []
    shards = ShardRecord.objects.using(job.db_alias).filter(
        record_id=job.key, attempt_id=job.attempt_id, stage=job.stage, is_done=False
    )
    return list(shards.order_by("index").values_list("index", flat=True))


def is_running(job: Job) -> bool:
    """Whether the record runs this attempt and stage."""
    return (
        MigrationRecord.objects.using(job.db_alias)
        .filter(key=job.key, attempt_id=job.attempt_id, stage=job.stage, status=Status.RUNNING)
        .exists()
    )


def _shards(job: Job) -> Any:
    return ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage, index=job.shard)


def claim(job: Job, worker: str) -> Claim | None:
    """Take the shard's lease, if it is free or has expired and no batch holds the shard's row."""
    token = uuid.uuid4()
    # What a transaction has read of documents, its owner cannot write meanwhile.
    if is_of_documents(job.db_alias) and not _shards(job).filter(LEASE_FREE, is_done=False).exists():
        return None
    with engine_transaction(job.db_alias):
        shard = unless_locked(_shards(job)).first()
        if shard is None:
            return None
        if shard.lease_token is not None:
            # Its owner has died, perhaps of a batch that was too much for it.
            shard.batch_size = max((shard.batch_size or settings.BATCH_SIZE) // 2, 1)
        claimed = (
            ShardRecord.objects.using(job.db_alias)
            .filter(LEASE_FREE, pk=shard.pk, attempt_id=job.attempt_id, is_done=False)
            .update(
                lease_token=token,
                lease_until=DatabaseNow(settings.LEASE),
                worker=worker,
                batch_size=shard.batch_size,
                heartbeat_at=DatabaseNow(),
                next_send_at=DatabaseNow(settings.LEASE),
                send_count=0,
            )
        )
        if not claimed:
            return None
    return claim_of(job, shard, token)


def claim_of(job: Job, shard: ShardRecord, token: uuid.UUID) -> Claim:
    """What the owner of this token needs to know of the shard, as it was read."""
    failures = FailedObject.objects.using(job.db_alias).filter(
        record_id=job.key, stage=job.stage, shard=job.shard, resolved_at=None
    )
    beside = _found_beside(job)
    return Claim(
        job=job,
        pk=shard.pk,
        token=token,
        fence=shard.fence,
        cursor=shard.cursor,
        lower=shard.lower,
        upper=shard.upper,
        batch_size=shard.batch_size or max((size for size, _ in beside), default=0),
        has_failures=failures.exists(),
        is_redo=shard.is_redo,
        has_stayed=any(has_stayed for _, has_stayed in beside),
        processed=shard.processed,
        failed_in_a_row=shard.failed_in_a_row,
    )


def _found_beside(job: Job) -> list[tuple[int, bool]]:
    """The batch sizes that the stage's shards have come to, and whether objects stayed in the queryset."""
    shards = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)
    return list(shards.order_by().values_list("batch_size", "has_stayed").distinct())


def read_again(claim: Claim) -> Claim | None:
    """The shard as it stands now, if this worker still owns it: after a commit whose answer was lost."""
    shard = _shards(claim.job).filter(attempt_id=claim.job.attempt_id, lease_token=claim.token, is_done=False).first()
    return claim_of(claim.job, shard, claim.token) if shard else None


def going(job: Job) -> int:
    """How many of the stage's shards workers are at, or wait as a throttle has told them to; at least one."""
    undone = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage, is_done=False)
    # Databases of documents compare one field in a query.
    found = undone.values_list("lease_until", "send_count", "next_send_at", DatabaseNow())
    count = sum(
        bool(until > now if until else not sends and due and due > now + settings.LEASE)
        for until, sends, due, now in found
    )
    return max(count, 1)


def standing(job: Job) -> Standing:
    """How the shard of a lost claim stands."""
    running = is_running(job)
    row = _shards(job).values_list("attempt_id", "is_done", "lease_until", DatabaseNow()).first()
    if row is None or str(row[0]) != job.attempt_id:
        return Standing(is_running=False, is_done=False, lease_left=dt.timedelta(0))
    _, is_done, lease_until, now = row
    left = max(lease_until - now, dt.timedelta(0)) if lease_until else dt.timedelta(0)
    return Standing(is_running=running, is_done=is_done, lease_left=left)


def begin_batch(claim: Claim) -> bool:
    """A batch's first statement: takes the row's lock, which keeps others away however long the batch lasts."""
    in_turn(claim.job.db_alias, claim.pk)
    return bool(
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(pk=claim.pk, attempt_id=claim.job.attempt_id, fence=claim.fence, lease_token=claim.token)
        .update(fence=F("fence") + 1)
    )


def end_batch(claim: Claim, progress: Progress) -> Claim | None:
    """A batch's last statement, the checkpoint. None: the server has rolled the transaction back behind our back.

    By the fence alone another owner may have written the same number, hence the token.
    """
    # Django takes longer to write this statement than the server to execute it.
    added = {"processed": progress.processed, "skipped": progress.skipped, "failed": progress.failed}
    ended = (
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(pk=claim.pk, attempt_id=claim.job.attempt_id, fence=claim.fence + 1, lease_token=claim.token)
        .update(
            cursor=progress.cursor,
            is_done=progress.is_done,
            **{name: F(name) + count for name, count in added.items() if count},
            failed_in_a_row=progress.failed_in_a_row,
            batch_size=progress.batch_size,
            has_stayed=progress.has_stayed,
            heartbeat_at=DatabaseNow(),
            lease_until=DatabaseNow(settings.LEASE),
        )
    )
    if not ended:
        return None
    return dataclasses.replace(
        claim,
        fence=claim.fence + 1,
        cursor=progress.cursor,
        batch_size=progress.batch_size,
        has_stayed=progress.has_stayed,
        processed=claim.processed + progress.processed,
        failed_in_a_row=progress.failed_in_a_row,
    )


def renew(claim: Claim) -> bool:
    """Lengthen the lease beside the work of a batch that holds no transaction."""
    return bool(
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(pk=claim.pk, lease_token=claim.token)
        .update(lease_until=DatabaseNow(settings.LEASE), heartbeat_at=DatabaseNow())
    )


def release(claim: Claim, *, wait: dt.timedelta | None) -> bool:
    """Give the lease back, if it is still ours.

    `wait`: when healing may send the shard, if nobody claims it before. None: at once, for its job may be gone.
    """
    return bool(
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(pk=claim.pk, lease_token=claim.token)
        .update(lease_token=None, lease_until=None, next_send_at=DatabaseNow(LONG_AGO if wait is None else wait))
    )
