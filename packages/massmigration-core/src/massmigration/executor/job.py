"""The run of one job. A shard's job claims the shard, runs its batches, sends the progress signal, and releases it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial

from django.db import DatabaseError, InterfaceError, OperationalError, ProgrammingError, connections

from massmigration import text
from massmigration.conf import settings
from massmigration.definitions import callables
from massmigration.definitions.stages import MappedStage, Stage, StageContext
from massmigration.dialects import dialect_of
from massmigration.dialects.errors import is_conflict, is_transient
from massmigration.exceptions import BadMigrationFile, InvalidTransition, MassMigrationError, MigrationNotFound, NotNow
from massmigration.executor import adaptive_pace, planner
from massmigration.executor.atomic_batch import AtomicBatchRunner, DocumentBatchRunner
from massmigration.executor.batch_size import AdaptiveBatchSize, max_size_of
from massmigration.executor.completion import fail, finish
from massmigration.executor.errors import (
    OperationRaised,
    delay_of,
    ends_by_itself,
    line_of,
    operation_blamed,
    run_with_retries,
)
from massmigration.executor.non_atomic_batch import NonAtomicBatchRunner
from massmigration.executor.outcomes import Batch, BatchEnd, Outcome, fail_batch
from massmigration.executor.processors import Processor, processor_for
from massmigration.executor.throttle import NO_TIME, SHORT, throttle_of, wait_for
from massmigration.executor.transport import Transport
from massmigration.executor.work_stealing import steal
from massmigration.jobs import Delivery, Job, JobKind
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.pace import Pace
from massmigration.recorder import events, failures, records, shards, stops
from massmigration.recorder.shards import Claim
from massmigration.signals import migration_progressed
from massmigration.states import Status

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""The minimum number of seconds between two progress signals of one job."""

CLAIM_TRIES = 3
CLAIM_BACK_OFF = 1.0
"""The maximum number of seconds between two attempts to claim a shard in a document database."""

ROOM_WAIT = dt.timedelta(seconds=2)
"""The delay of a job that could not claim its shard because the pace allows no further worker."""

HELD = dt.timedelta(seconds=5)
"""The maximum time for which a worker holds a throttled job if the queue cannot delay it."""

_given_back: set[str] = set()
"""Attempts whose jobs this process has returned to the queue. Each is logged once."""


def run(job: Job, transport: Transport, *, between_batches: Callable[[str], None] | None = None) -> Delivery | None:
    """Run a job until it is done or interrupted. Return the continuation to send, if there is one.

    `between_batches` is called with the database alias after every batch but the job's last.
    """
    try:
        return _run(job, transport, between_batches)
    except NotNow as error:
        return _put_off(job, error, transport)
    except BaseException as error:
        if not isinstance(error, Exception) and callables.is_from_signal(error):
            raise
        if _lacks_tables(job, error):
            planner.note_unseen(job, error=error)
            return None
        passes = isinstance(error, (DatabaseError, InterfaceError)) and is_transient(error)
        if _has_given_up(job, error, is_waiting=passes and ends_by_itself(job.db_alias, error)):
            return None
        if not passes:
            raise
        logger.warning("Job %s was refused by the database (%s); it is sent again.", job, text.line(error))
        return Delivery(job=job, delay=settings.LEASE / 4)


def _put_off(job: Job, error: NotNow, transport: Transport) -> Delivery:
    """Record why the plan or the completion check cannot run now. Send its job again after the delay."""
    logger.info("Job %s is sent again later: %s", job, text.line(error))
    with contextlib.suppress(DatabaseError, InterfaceError):
        failures.count_record_stall(job, line_of(error, is_waiting=True), counts=False)
    delay = delay_of(error)
    return Delivery(job=job, delay=min(delay, transport.max_delay) if transport.max_delay else delay)


def _lacks_tables(job: Job, error: BaseException) -> bool:
    """Return whether the connection cannot see the table of records. A process that can sends the job again."""
    if not isinstance(error, (ProgrammingError, OperationalError)) or is_transient(error):
        return False
    table = MigrationRecord._meta.db_table
    if table not in text.safe(error):
        return False
    with connections[job.db_alias].cursor() as cursor:
        return table not in connections[job.db_alias].introspection.table_names(cursor)


def _has_given_up(job: Job, error: BaseException, *, is_waiting: bool) -> bool:
    """Record an error outside of batches. Fail the migration after too many. Return whether it has failed."""
    connections[job.db_alias].close_if_unusable_or_obsolete()
    told = line_of(error, is_waiting=is_waiting)
    try:
        stall = failures.count_record_stall(job, told, counts=not is_waiting)
        if is_waiting or stall.tries < settings.MAX_STALLED_TRIES:
            return False
        fail(job, f"{text.counted(stall.tries, 'consecutive job')} failed. The last error: {told}", cause=error)
    except (DatabaseError, InterfaceError) as unnoted:
        logger.warning("The error of job %s could not be recorded: %s", job, text.safe(unnoted))
        return False
    return True


def _run(job: Job, transport: Transport, between_batches: Callable[[str], None] | None) -> Delivery | None:
    try:
        migration = store.get(job.key)
    except (MigrationNotFound, BadMigrationFile) as error:
        return _give_back(job, error, transport)
    try:
        stages = migration.get_stages()
        if job.stage >= len(stages):
            raise BadMigrationFile(
                f"Migration {job.key!r} has {text.counted(len(stages), 'stage')}, but the job is for stage {job.stage} "
                "(counted from 0)."
            )
    except NotNow:
        raise
    except MassMigrationError as error:
        fail(job, text.told(error))
        return None
    if events.note_code_change(job, migration.source_hash) and migration.on_code_change == "pause":
        with contextlib.suppress(InvalidTransition):
            records.move(job.db_alias, job.key, Status.PAUSED, "pause", actor="code: the file has changed")
    logger.debug("Running %s.", job)
    if job.kind is JobKind.PLAN:
        return planner.run(job, stages, transport)
    if job.kind is JobKind.SHARD:
        return _run_shard(job, stages, transport, between_batches)
    finish(job, stages, transport)
    return None


def _give_back(job: Job, error: MassMigrationError, transport: Transport) -> Delivery | None:
    """Return the job to the queue if its attempt is active, because this worker may run an older version of the code.

    If the queue does not support delays, return None; recovery sends the job again.
    """
    if not records.is_active(job):
        logger.error("Dropped a job of migration %r, which is not active on database %r.", job.key, job.db_alias)
        return None
    if job.attempt_id not in _given_back:
        _given_back.add(job.attempt_id)
        told = text.line(error)
        logger.error("This worker cannot run migration %r and returns its jobs to the queue. %s", job.key, told)
    return Delivery(job=job, delay=settings.LEASE / 4) if transport.supports_delay else None


class ProgressReporter:
    """A counter of the processed objects of a job, which sends the progress signal at intervals."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()
        self._processed = 0

    def add(self, job: Job, processed: int) -> None:
        """Add a batch with this number of processed objects."""
        self._processed += processed
        now = time.monotonic()
        if now - self._told_at >= INTERVAL:
            events.announce(migration_progressed, job.key, job.db_alias, processed=self._processed)
            self._told_at, self._processed = now, 0


def _run_shard(
    job: Job, stages: Sequence[Stage], transport: Transport, between_batches: Callable[[str], None] | None
) -> Delivery | None:
    """Claim the shard and process it, then parts of other shards. Return the continuation, if there is one."""
    job = job if job.ticket else dataclasses.replace(job, ticket=str(uuid.uuid4()))
    deadline = time.monotonic() + transport.job_duration().total_seconds()
    claim = _claim(job, _at_most(job, stages))
    while True:
        if claim is None:
            return _lost_claim(job, stages, transport)
        job = claim.job
        outcome = _work(claim, stages[job.stage], transport, deadline, between_batches)
        if outcome.end is BatchEnd.DONE or outcome.claim.cursor != claim.cursor:
            failures.clear_record_stall(job)
        if outcome.end is BatchEnd.DONE:
            claim = _next_claim(outcome.claim, stages, transport)
            if claim is None:
                finish(job, stages, transport)
                return None
            continue
        if outcome.end is BatchEnd.FAILED:
            fail(job, outcome.error)
        delay = settings.LEASE / 4 if outcome.end is BatchEnd.BUSY else outcome.wait
        is_ours = _release(outcome.claim, delay, transport)
        # Read the status after the release; otherwise a resume between the two would be lost.
        if not is_ours or outcome.end is BatchEnd.LOST or not shards.is_running(job):
            return None
        if outcome.end is not BatchEnd.STOPPED:
            held = delay if outcome.end is BatchEnd.BUSY or delay is None else _piece(delay, transport)
            return _delivery(job.continued(), held, transport)
        claim = _claim(job, _at_most(job, stages))


def _next_claim(claim: Claim, stages: Sequence[Stage], transport: Transport) -> Claim | None:
    """Return a claim of another shard after the claim's shard is done, or None.

    If the pace limits the workers, the jobs of other shards wait for this worker's place.
    """
    job, stage = claim.job, stages[claim.job.stage]
    limit = claim.pace.limit_of_workers(adaptive_pace.max_workers_of(stage, claim.pace))
    if limit is not None and not transport.stop_requested():
        for waiting in shards.waiting_for_room(job):
            found = _claim(waiting, _at_most(job, stages))
            if found is not None:
                return found
    return steal(job, stage, transport, worker_name()) if shards.can_skip_locked(job.db_alias) else None


def _release(claim: Claim, delay: dt.timedelta | None, transport: Transport) -> bool:
    """Release the shard. Return False if another worker owns it."""
    wait = delay or dt.timedelta(0)
    if transport.stop_requested():
        # A queue in the worker's memory is lost when the worker shuts down.
        return shards.release(claim, wait=None)
    return shards.release(claim, wait=wait if _is_too_long(delay, transport) else settings.LEASE + wait)


def _is_too_long(delay: dt.timedelta | None, transport: Transport) -> bool:
    """Return whether the delay is longer than the queue supports. Then no job is sent now; recovery sends it later."""
    return bool(delay and transport.supports_delay and transport.max_delay and delay > transport.max_delay)


def _delivery(job: Job, delay: dt.timedelta | None, transport: Transport) -> Delivery | None:
    """Return the delivery that continues the shard after `delay`, or None if recovery must send it."""
    return None if _is_too_long(delay, transport) else Delivery(job=job, delay=delay)


def _at_most(job: Job, stages: Sequence[Stage]) -> int | None:
    """Return how many workers the level of the run allows at the same time; None: any number."""
    return adaptive_pace.max_workers_of(stages[job.stage], shards.read_run(job).pace)


def _claim(job: Job, at_most: int | None = None) -> Claim | None:
    """Claim the shard. Retry after a deadlock, and if a document database refuses simultaneous claims."""
    waits_for_locks = dialect_of(job.db_alias).waits_for_locks
    for attempt in range(1, CLAIM_TRIES + 1):
        try:
            return shards.claim(job, worker_name(), at_most)
        except DatabaseError as error:
            can_pass = is_conflict(error) or (is_transient(error) and not waits_for_locks)
            if attempt == CLAIM_TRIES or not can_pass:
                raise
            time.sleep(random.uniform(0, CLAIM_BACK_OFF))
    return None


def worker_name() -> str:
    """Return host, process and thread of this worker, as shown to operators."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.current_thread().name}"[:255]


def _lost_claim(job: Job, stages: Sequence[Stage], transport: Transport) -> Delivery | None:
    """Handle a job that could not claim its shard. Return a later delivery of the job, or None to drop it.

    If the shard's worker dies, this job may be the only one that is left, so it is delivered again later. One such job
    is enough: it is dropped if a later job has claimed the shard. If no other job exists after all, recovery sends one
    when the lease or the wait has expired.
    """
    state = shards.shard_state(job, at_most=_at_most(job, stages))
    if not state.is_running:
        return None
    if state.is_done:
        finish(job, stages, transport)
        return None
    if state.is_replaced:
        logger.info("Dropped a job for shard %s of migration %s: a later one has claimed it.", job.shard, job.key)
        return None
    if transport.supports_delay:  # without delays, a worker would hold the job before it is sent
        job = shards.waiting_job(job)
    if not state.throttle_left:
        wait = _piece(ROOM_WAIT, transport) if state.is_full else settings.LEASE / 4
        return Delivery(job=job, delay=max(wait, state.lease_left))
    until, by = state.throttled_until, state.throttled_by
    logger.info("Shard %s of migration %s is throttled until %s by %s.", job.shard, job.key, until, by)
    return _delivery(job, _piece(max(state.throttle_left, state.lease_left), transport), transport)


def _piece(wait: dt.timedelta, transport: Transport) -> dt.timedelta:
    """Return the delay of the next delivery: the wait, but at most `HELD` if the queue does not support delays."""
    return wait if transport.supports_delay else min(wait, HELD)


def _work(
    claim: Claim,
    stage: Stage,
    transport: Transport,
    deadline: float,
    between_batches: Callable[[str], None] | None,
) -> Outcome:
    """Run batches until the shard is done or the job must end."""
    job = claim.job
    try:
        pace = _pace(claim, stage)
        controller = adaptive_pace.controller_of(claim, stage)
        runner = _LazyRunner(stage, pace, transport, controller)
        reporter = ProgressReporter()
        throttle = throttle_of(stage, claim)
        while True:
            if claim.pace.stops and not _may_continue(claim, pace):
                return Outcome(end=BatchEnd.STOPPED, claim=claim)
            wait = throttle.before(claim, pace, transport.stop_requested) if throttle else NO_TIME
            if wait:
                return Outcome(end=BatchEnd.MORE, claim=claim, wait=wait)
            if controller:
                pace.take_share(controller.share)
            started = time.monotonic()
            outcome = run_with_retries(runner, claim, pace, stage.idle_limit or settings.IDLE_LIMIT)
            rows = outcome.claim.processed - claim.processed
            reporter.add(job, rows)
            claim = outcome.claim
            if outcome.end not in (BatchEnd.MORE, BatchEnd.DONE):
                return outcome
            duration = dt.timedelta(seconds=time.monotonic() - started)
            if controller:
                controller.note(claim, rows, outcome.commit_duration)
            wait = throttle.after(claim, rows, duration, outcome.commit_duration) if throttle else NO_TIME
            if outcome.end is BatchEnd.DONE:
                return outcome
            if transport.stop_requested() or time.monotonic() >= deadline or wait > SHORT:
                return dataclasses.replace(outcome, wait=wait or None)
            left = wait and wait_for(wait, transport.stop_requested)
            if left:
                return dataclasses.replace(outcome, wait=left)
            if controller:
                wait_for(controller.pause_after(duration), transport.stop_requested)
            if between_batches is not None:
                between_batches(job.db_alias)
            pace.yield_write_lock()
    except BaseException:
        # The data is not the cause: release the lease, and let the queue handle the error.
        with contextlib.suppress(DatabaseError, InterfaceError):
            connections[job.db_alias].close_if_unusable_or_obsolete()
            shards.release(claim, wait=None)
        raise


def _may_continue(claim: Claim, pace: AdaptiveBatchSize) -> bool:
    """Pause the migration if it was requested for a part of the run that is over. Otherwise cap the next batch."""
    left = stops.check(claim)
    if left is not None:
        pace.cap(left)
    return left is None or left > 0


def _pace(claim: Claim, stage: Stage) -> AdaptiveBatchSize:
    db_alias, size, given = claim.job.db_alias, claim.batch_size, claim.pace
    if not isinstance(stage, MappedStage):
        return AdaptiveBatchSize(db_alias, size=size, max_size=settings.MAX_BATCH_SIZE, fixed_size=None)
    largest = given.max_batch_size or max_size_of(stage)
    return AdaptiveBatchSize(
        db_alias,
        size=size,
        max_size=min(max_size_of(stage), largest),
        fixed_size=stage.batch_size and min(stage.batch_size, largest),
        first_size=stage.first_batch_size,
        is_set=bool(stage.operation_batch),
        duration=_duration(given, stage),
        max_growth=stage.max_batch_growth,
    )


def _duration(pace: Pace, stage: MappedStage) -> dt.timedelta | None:
    """Return the target duration of batches; None: that of the settings."""
    found = pace.batch_duration or stage.batch_duration
    level = adaptive_pace.level_of(stage, pace)
    if level is None or level.max_duration is None or pace.batch_duration:
        return found
    return min(found or settings.BATCH_DURATION, level.max_duration)


class _LazyRunner:
    """A batch runner that is created by the first batch, so that errors of the queryset count as the migration's."""

    def __init__(
        self,
        stage: Stage,
        pace: AdaptiveBatchSize,
        transport: Transport,
        controller: adaptive_pace.LoadController | None,
    ) -> None:
        self._controller = controller
        self._stage = stage
        self._pace = pace
        self._transport = transport
        self._runner: AtomicBatchRunner | NonAtomicBatchRunner | None = None
        self.is_atomic = stage.atomic

    @property
    def batch(self) -> Batch | None:
        """The last batch that was fetched, or None."""
        return self._runner.batch if self._runner else None

    def run(self, claim: Claim) -> Outcome:
        try:
            if self._runner is None:
                self._runner = self._kind(claim)(self._stage, self._make_processor(claim), self._pace)
                if self._controller and isinstance(self._runner, AtomicBatchRunner):
                    self._runner.before_commit = partial(self._controller.look, claim.job.db_alias)
            return self._runner.run(claim)
        except OperationRaised as raised:
            return fail_batch(claim, raised.error)

    def _kind(self, claim: Claim) -> type[AtomicBatchRunner | NonAtomicBatchRunner]:
        if not self._stage.atomic:
            return NonAtomicBatchRunner
        return AtomicBatchRunner if dialect_of(claim.job.db_alias).supports_savepoints else DocumentBatchRunner

    def _make_processor(self, claim: Claim) -> Processor:
        with operation_blamed(), callables.exits_refused(f"Migration {claim.job.key!r}"):
            context = _context(claim, self._transport)
            return processor_for(self._stage, claim.job.db_alias, is_retry=claim.is_retry, context=context)


def _context(claim: Claim, transport: Transport) -> StageContext:
    job = claim.job
    return StageContext(
        key=job.key,
        db_alias=job.db_alias,
        attempt_id=job.attempt_id,
        stage=job.stage,
        stop_requested=transport.stop_requested,
        is_current=partial(shards.is_current, claim),
        add_event=lambda detail: events.add(job.db_alias, job.key, "note", attempt_id=job.attempt_id, detail=detail),
    )
