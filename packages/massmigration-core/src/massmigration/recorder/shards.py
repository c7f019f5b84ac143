"""The rows of shards: the claim, the fenced transaction of a batch, the release, and the row locks for them."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from django.db import DatabaseError, connections
from django.db.models import F, Model, Q, QuerySet

from massmigration.conf import settings
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.errors import is_conflict, is_document_contention
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import BatchInFlight, LostShard
from massmigration.jobs import Job, JobKind
from massmigration.models import FailedObject, MigrationRecord, ShardRecord, all_paused
from massmigration.pace import NO_PACE, Pace
from massmigration.states import Status

_M = TypeVar("_M", bound=Model)
_P = ParamSpec("_P")
_T = TypeVar("_T")

PAUSE = 0.5
"""The maximum number of seconds between two tries."""


def retried_on_contention(call: Callable[_P, _T]) -> Callable[_P, _T]:
    """Call the function again while other transactions keep it from committing, for up to `MASSMIGRATION_LOCK_WAIT`.

    A document database does not wait for a row that another transaction writes, or not for long. Elsewhere the cause is
    a deadlock. The first argument is the database's alias.
    """

    @functools.wraps(call)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        db_alias = str(args[0])
        until = time.monotonic() + settings.LOCK_WAIT.total_seconds()
        is_inside = connections[db_alias].in_atomic_block  # then the whole transaction would have to be tried again
        while True:
            try:
                return call(*args, **kwargs)
            except (BatchInFlight, DatabaseError) as error:
                if is_inside or time.monotonic() >= until or not _is_contention(error):
                    raise
            time.sleep(random.uniform(0, PAUSE))

    return called


def _is_contention(error: BatchInFlight | DatabaseError) -> bool:
    cause = error.__cause__ if isinstance(error, BatchInFlight) else None
    return is_document_contention(error) or is_conflict(cause or error)


def can_skip_locked(db_alias: str) -> bool:
    """Return whether the database can skip locked rows. SQLite cannot: it has one writer at a time."""
    return bool(connections[db_alias].features.has_select_for_update_skip_locked)


def skip_locked(queryset: QuerySet[_M]) -> QuerySet[_M]:
    """Lock the rows, and skip those that another transaction has locked, if the database supports that.

    SQLite has no row locks: the engine's transactions hold its one write lock from their start.
    """
    if not connections[queryset.db].features.has_select_for_update:
        return queryset
    return queryset.select_for_update(skip_locked=can_skip_locked(queryset.db))


LONG_AGO = -dt.timedelta(days=365)
"""A time that is longer than a job may wait in a queue."""

NO_STALL: dict[str, Any] = {"stalled_tries": 0, "stalled_since": None, "stalled_error": ""}
"""The fields of a shard or a record that makes checkpoint."""

LEASE_FREE = Q(lease_until__isnull=True) | Q(lease_until__lte=DatabaseNow())
NOT_THROTTLED = Q(throttled_until__isnull=True) | Q(throttled_until__lte=DatabaseNow())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A shard that this worker owns, with the values of its last read or write."""

    job: Job
    pk: int
    token: uuid.UUID
    fence: int
    cursor: list[Any] | None
    lower: list[Any] | None
    upper: list[Any] | None
    batch_size: int
    has_failures: bool
    """Whether the object after the cursor has failed."""

    is_retry: bool = False
    still_matched: bool = False
    has_waited: bool = False
    """Whether a wait that a throttle requested before the next batch is over."""

    throttled_by: str = ""
    """The throttle that requested the last wait, with its reason."""

    processed: int = 0
    failed: int = 0
    consecutive_failures: int = 0
    is_stalled: bool = False
    """Whether a round without progress is recorded."""

    pace: Pace = NO_PACE
    """The pace of the migration when the shard was claimed. No batch starts after it has changed."""

    @property
    def after(self) -> list[Any] | None:
        """The key that the next batch starts after."""
        return self.cursor if self.cursor is not None else self.lower


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The values that a batch writes to its shard at its end."""

    cursor: list[Any] | None
    is_done: bool
    processed: int = 0
    skipped: int = 0
    failed: int = 0
    changed: int | None = 0
    """The number of rows that the batch changed, or None if it is unknown."""

    consecutive_failures: int = 0
    """The number of consecutive failures among the last objects."""

    batch_size: int
    still_matched: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """The state of a shard that could not be claimed."""

    is_running: bool
    is_done: bool
    is_replaced: bool = False
    """Whether a later job has claimed the shard."""

    lease_left: dt.timedelta = dt.timedelta(0)
    throttle_left: dt.timedelta = dt.timedelta(0)
    throttled_until: dt.datetime | None = None
    throttled_by: str = ""
    is_full: bool = False
    """Whether the pace allows no further worker."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the record says about an attempt and its stage, read by one statement."""

    is_running: bool
    """Whether the record runs this attempt and stage, and not everything is paused."""

    is_all_paused: bool = False
    pace: Pace = NO_PACE
    now: dt.datetime | None = None
    """The database's time, or None if there is no such attempt and stage."""


def open_shards(job: Job) -> list[Job]:
    """Return jobs for the stage's shards that are not done; none if the record does not run this attempt and stage."""
    if not is_running(job):
        return []
    shards = ShardRecord.objects.using(job.db_alias).filter(
        record_id=job.key, attempt_id=job.attempt_id, stage=job.stage, is_done=False
    )
    return [job_for(job, *found) for found in shards.order_by("index").values_list("index", "ticket")]


def job_for(job: Job, index: int, ticket: uuid.UUID | None) -> Job:
    """Return a job for the shard with this index. It has the ticket that the shard's row contains."""
    return dataclasses.replace(job, kind=JobKind.SHARD, shard=index, ticket=str(ticket or uuid.uuid4()), after="")


def is_running(job: Job) -> bool:
    """Return whether the record runs this attempt and stage, and not everything is paused."""
    return read_run(job).is_running


def read_run(job: Job) -> Run:
    """Read the status and the pace of the record, and the switch that pauses everything."""
    mine = _mine(job).values_list("status", "pace", all_paused(job.db_alias), DatabaseNow())
    for status, pace, is_all_paused, now in mine:
        is_running = status == Status.RUNNING and not is_all_paused
        return Run(is_running=is_running, is_all_paused=bool(is_all_paused), pace=Pace.of(pace), now=now)
    return Run(is_running=False)


def _mine(job: Job) -> Any:
    records = MigrationRecord.objects.using(job.db_alias).order_by()
    return records.filter(key=job.key, attempt_id=job.attempt_id, stage=job.stage)


def _shards(job: Job) -> Any:
    return ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage, index=job.shard)


def claim(job: Job, worker: str, at_most: int | None = None) -> Claim | None:
    """Take the shard's lease and write the job's ticket. Return None if that is not possible.

    `at_most`: the maximum number of workers at the same time, in addition to that of the pace.

    It needs a lease that is free or expired, a row that no batch has locked, no unfinished wait of a throttle, no later
    job that has claimed the shard, and fewer workers than the pace allows. While everything is paused, it is refused.
    """
    token = uuid.uuid4()
    run = read_run(job)
    if run.is_all_paused:
        return None
    limit = run.pace.limit_of_workers(at_most)
    is_limited = limit is not None
    # In a document database, the owner cannot write what this transaction has read.
    if dialect_of(job.db_alias).reads_block_writes:
        if not _shards(job).filter(LEASE_FREE, is_done=False).exists() or is_full(job, limit):
            return None
        is_limited = False
    with engine_transaction(job.db_alias):
        # If the pace limits the workers, claims wait for each other. Of two that count at once, one would be too many.
        if is_limited and (_mine(job).select_for_update().first() is None or is_full(job, limit)):
            return None
        shard = skip_locked(_shards(job)).first()
        if shard is None:
            return None
        if shard.lease_token is not None:
            # Its owner died, perhaps because the batch was too large.
            shard.batch_size = max((shard.batch_size or settings.BATCH_SIZE) // 2, 1)
        claimed = (
            ShardRecord.objects.using(job.db_alias)
            .filter(LEASE_FREE, NOT_THROTTLED, _turn_of(job), pk=shard.pk, attempt_id=job.attempt_id, is_done=False)
            .update(
                lease_token=token,
                lease_until=DatabaseNow(settings.LEASE),
                ticket=job.ticket or None,
                worker=worker,
                batch_size=shard.batch_size,
                heartbeat_at=DatabaseNow(),
                next_send_at=DatabaseNow(settings.LEASE),
                send_count=0,
            )
        )
        if not claimed:
            return None
    until, beat = shard.throttled_until, shard.heartbeat_at
    has_waited = until is not None and (beat is None or until > beat)
    return claim_of(job, shard, token, run.pace, has_waited=has_waited)


def is_full(job: Job, limit: int | None) -> bool:
    """Return whether so many workers hold a lease of other shards of the migration. None: any number may."""
    if limit is None:
        return False
    shards = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, is_done=False)
    held = shards.filter(lease_until__gt=DatabaseNow()).exclude(stage=job.stage, index=job.shard)
    return bool(held.order_by().count() >= limit)


def waiting_for_room(job: Job) -> list[Job]:
    """Return jobs for the stage's shards that have no worker and are not throttled."""
    shards = ShardRecord.objects.using(job.db_alias).filter(
        LEASE_FREE,
        NOT_THROTTLED,
        record_id=job.key,
        attempt_id=job.attempt_id,
        stage=job.stage,
        is_done=False,
    )
    return [job_for(job, *found) for found in shards.order_by("index").values_list("index", "ticket")]


def _turn_of(job: Job) -> Q:
    """Return the condition that the row has the job's ticket, that of the job which it continues, or none."""
    return Q(ticket__isnull=True) | Q(ticket__in=[ticket for ticket in (job.ticket, job.after) if ticket])


def claim_of(job: Job, shard: ShardRecord, token: uuid.UUID, pace: Pace, *, has_waited: bool = False) -> Claim:
    """Return the claim of the owner of this token, from a shard that was just read."""
    failures = FailedObject.objects.using(job.db_alias).filter(
        record_id=job.key, stage=job.stage, shard=job.shard, resolved_at=None, is_behind_cursor=False
    )
    beside = _sizes_of_stage(job)
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
        is_retry=shard.is_retry,
        still_matched=any(still_matched for _, still_matched in beside),
        has_waited=has_waited,
        throttled_by=shard.throttled_by,
        processed=shard.processed,
        failed=shard.failed,
        consecutive_failures=shard.consecutive_failures,
        is_stalled=shard.stalled_since is not None,
        pace=pace,
    )


def _sizes_of_stage(job: Job) -> list[tuple[int, bool]]:
    """Return the batch sizes of the stage's shards, each with whether processed objects still matched."""
    shards = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)
    return list(shards.order_by().values_list("batch_size", "still_matched").distinct())


def is_current(claim: Claim) -> bool:
    """Return whether this worker still owns the shard, and the record runs its attempt and stage."""
    return is_running(claim.job) and _shards(claim.job).filter(lease_token=claim.token, is_done=False).exists()


def read_again(claim: Claim) -> Claim | None:
    """Read the shard again. Return None if this worker no longer owns it. Needed after a commit without a response."""
    shard = _shards(claim.job).filter(attempt_id=claim.job.attempt_id, lease_token=claim.token, is_done=False).first()
    return claim_of(claim.job, shard, claim.token, claim.pace) if shard else None


def shard_state(job: Job, *, at_most: int | None = None) -> ShardState:
    """Return the state of a shard that could not be claimed. `at_most`: as in `claim`."""
    run = read_run(job)
    shard = _shards(job).annotate(now=DatabaseNow()).first()
    if shard is None or str(shard.attempt_id) != job.attempt_id:
        return ShardState(is_running=False, is_done=False)
    return ShardState(
        is_running=run.is_running,
        is_done=shard.is_done,
        is_replaced=shard.ticket is not None and str(shard.ticket) not in (job.ticket, job.after),
        lease_left=_left(shard.lease_until, shard.now),
        throttle_left=_left(shard.throttled_until, shard.now),
        throttled_until=shard.throttled_until,
        throttled_by=shard.throttled_by,
        is_full=is_full(job, run.pace.limit_of_workers(at_most)),
    )


def _left(until: dt.datetime | None, now: dt.datetime) -> dt.timedelta:
    return max(until - now, dt.timedelta(0)) if until else dt.timedelta(0)


def waiting_job(job: Job) -> Job:
    """Replace the job and all its copies by one new job that waits for the shard. Return the new job.

    Return the same job if the row is locked. When the owner releases the lease, its continuation is again the only
    job that may claim the shard.
    """
    if dialect_of(job.db_alias).reads_block_writes:
        return job
    other = dataclasses.replace(job, ticket=str(uuid.uuid4()), after="")
    with engine_transaction(job.db_alias):
        shard = skip_locked(_shards(job).filter(_turn_of(job), attempt_id=job.attempt_id)).first()
        if shard is None:
            return job
        ShardRecord.objects.using(job.db_alias).filter(pk=shard.pk).update(ticket=other.ticket)
    return other


class Stopped(Exception):
    """The record is not running this attempt."""


class PaceChanged(Exception):
    """The pace has changed since the shard was claimed."""


class RolledBack(Exception):
    """The transaction was rolled back, or committed, before the checkpoint, and nothing has reported it."""


class FencedTransaction:
    """A transaction in which this worker has raised the shard's fence. It ends with exactly one of the methods."""

    def __init__(self, claim: Claim, *, is_marked: bool) -> None:
        self.claim = claim
        self._is_marked = is_marked
        self.has_ended = False
        """Whether the last statement has been executed, so that only the COMMIT can still fail."""

    def checkpoint(self, checkpoint: Checkpoint) -> Claim:
        """Execute the last statement: save the cursor and the counts. Return the claim for the next batch."""
        db_alias = self.claim.job.db_alias
        is_still_open = not self._is_marked or dialect_of(db_alias).is_marked()
        saved = save_checkpoint(self.claim, checkpoint) if is_still_open else None
        if saved is None:
            raise RolledBack
        self.has_ended = True
        return saved

    def end_without_checkpoint(self) -> Claim:
        """Let the transaction commit nothing but the raised fence. Return the claim with that fence."""
        self.has_ended = True
        return dataclasses.replace(self.claim, fence=self.claim.fence + 1)


@contextlib.contextmanager
def fenced_transaction(
    claim: Claim,
    *,
    only_if_running: bool = False,
    is_marked: bool = False,
    idle_limit: dt.timedelta | None = None,
    on_hook_errors: Callable[[list[Exception]], None] | None = None,
) -> Iterator[FencedTransaction]:
    """Open a transaction that only the owner of the shard can commit.

    Its first statement raises the shard's fence and locks its row until the commit. Its last one is the checkpoint,
    which checks the fence. Leaving the block without either method of `FencedTransaction` is an error.

    `only_if_running`: read the record's status, its pace and the switch that pauses everything, by one statement after
    the first one.
    `is_marked`: set a savepoint, with which the checkpoint detects that the user's code has ended the transaction.
    `idle_limit`, `on_hook_errors`: see `engine_transaction`.

    Raise `LostShard` if another worker owns the shard or a throttle has asked to wait, `Stopped` if the record is not
    running this attempt and stage or everything is paused, `PaceChanged` if the claim's pace is out of date,
    `RolledBack` at the checkpoint if it is not in the transaction of the first
    statement.
    """
    db_alias = claim.job.db_alias
    with engine_transaction(db_alias, idle_limit=idle_limit, on_hook_errors=on_hook_errors):
        if not raise_fence(claim):
            raise LostShard
        if only_if_running:
            check_runs(claim)
        if is_marked:
            dialect_of(db_alias).mark_transaction()
        fenced = FencedTransaction(claim, is_marked=is_marked)
        yield fenced
        if not fenced.has_ended:
            raise RuntimeError("A fenced transaction was left without a checkpoint.")


def check_runs(claim: Claim) -> None:
    """Raise `Stopped` or `PaceChanged` if the claim's next batch may not start."""
    run = read_run(claim.job)
    if not run.is_running:
        raise Stopped
    if run.pace != claim.pace:
        raise PaceChanged


def raise_fence(claim: Claim) -> bool:
    """Execute the first statement. It locks the shard's row, so that no other worker can start a batch.

    Return False if another worker owns the shard, or the wait that a throttle has set is not over.
    """
    dialect_of(claim.job.db_alias).queue_for_row(claim.pk)
    return bool(
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(NOT_THROTTLED, pk=claim.pk, attempt_id=claim.job.attempt_id, fence=claim.fence, lease_token=claim.token)
        .update(fence=F("fence") + 1)
    )


def save_checkpoint(claim: Claim, checkpoint: Checkpoint) -> Claim | None:
    """Execute the last statement. Return None if the row has changed since the first statement of this transaction.

    The server has rolled the transaction back unnoticed, or something has committed it: then an earlier transaction
    wrote the row. The token is tested because another owner may have written the same fence.
    """
    # Django takes longer to write this statement than the server to execute it.
    added = {"processed": checkpoint.processed, "skipped": checkpoint.skipped, "failed": checkpoint.failed}
    is_moved = checkpoint.is_done or checkpoint.cursor != claim.cursor
    saved = (
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(
            *dialect_of(claim.job.db_alias).written_here(),
            pk=claim.pk,
            attempt_id=claim.job.attempt_id,
            fence=claim.fence + 1,
            lease_token=claim.token,
        )
        .update(
            cursor=checkpoint.cursor,
            is_done=checkpoint.is_done,
            **{name: F(name) + count for name, count in added.items() if count},
            **_of_changed(checkpoint.changed),
            consecutive_failures=checkpoint.consecutive_failures,
            batch_size=checkpoint.batch_size,
            still_matched=checkpoint.still_matched,
            heartbeat_at=DatabaseNow(),
            lease_until=DatabaseNow(settings.LEASE),
            **(NO_STALL if claim.is_stalled and is_moved else {}),
        )
    )
    if not saved:
        return None
    return dataclasses.replace(
        claim,
        fence=claim.fence + 1,
        cursor=checkpoint.cursor,
        batch_size=checkpoint.batch_size,
        still_matched=checkpoint.still_matched,
        processed=claim.processed + checkpoint.processed,
        failed=claim.failed + checkpoint.failed,
        is_stalled=claim.is_stalled and not is_moved,
        consecutive_failures=checkpoint.consecutive_failures,
    )


def _of_changed(count: int | None) -> dict[str, Any]:
    """Return the new value of `changed`. Once unknown it stays unknown: NULL plus a number is NULL."""
    if count is None:
        return {"changed": None}
    return {"changed": F("changed") + count} if count else {}


def renew(claim: Claim) -> bool:
    """Extend the lease during a batch without a transaction."""
    return bool(
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(pk=claim.pk, lease_token=claim.token)
        .update(lease_until=DatabaseNow(settings.LEASE), heartbeat_at=DatabaseNow())
    )


def release(claim: Claim, *, wait: dt.timedelta | None) -> bool:
    """Release the lease, if it is still ours, and write the ticket of the claim again. Return whether it was ours.

    `wait`: the time after which recovery may send the shard if no worker has claimed it. None: immediately, because its
    job may be lost.
    """
    return bool(
        ShardRecord.objects.using(claim.job.db_alias)
        .filter(pk=claim.pk, lease_token=claim.token)
        .update(
            lease_token=None,
            lease_until=None,
            ticket=claim.job.ticket or None,
            batch_size=claim.batch_size,
            next_send_at=DatabaseNow(LONG_AGO if wait is None else wait),
        )
    )
