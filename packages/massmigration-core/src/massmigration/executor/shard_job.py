"""Works at one shard: claim, batch after batch, release."""

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
from collections.abc import Callable, Sequence

from django.db import DatabaseError, InterfaceError, connections

from massmigration.conf import settings
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.exceptions import IdleLimitExceeded, LostShard
from massmigration.executor.batch import AtomicBatch, fail_batch
from massmigration.executor.finishing import fail, finish
from massmigration.executor.kinds import work_of
from massmigration.executor.outcome import End, LookAgain, OperationRaised, Outcome, RolledBack, Stopped
from massmigration.executor.pace import Pace
from massmigration.executor.singly import SinglyBatch
from massmigration.executor.stealing import steal
from massmigration.executor.stepwise import StepwiseBatch
from massmigration.executor.telling import ProgressTeller
from massmigration.executor.throttle import SHORT, Throttle, sleep
from massmigration.executor.transport import Transport
from massmigration.executor.work import Work
from massmigration.jobs import Delivery, Job
from massmigration.recorder import shards
from massmigration.recorder.shards import Claim
from massmigration.stores import is_of_documents
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)

TRIES = 8
"""How often a batch is tried when the database refuses it, before the worker is given back to the queue."""

MAX_SAT_IDLE = 2
"""How often a batch may lose its connection after the idle limit: once it may have been this process that froze."""

CLAIM_TRIES = 3
CLAIM_BACK_OFF = 1.0
"""Seconds, at most, between two claims of a shard of documents."""

MAX_BACK_OFF = 2.0
"""Seconds between two tries, at most."""


def run(job: Job, stages: Sequence[Stage], transport: Transport) -> Delivery | None:
    """Claim the shard and work at it, then at parts of others'. Return the continuation, if there is one."""
    deadline = time.monotonic() + transport.job_duration().total_seconds()
    claim = _claim(job)
    while True:
        if claim is None:
            return _lost_claim(job, stages, transport)
        job = claim.job
        outcome = _work(claim, stages[job.stage], transport, deadline)
        if outcome.end is End.DONE:
            claim = steal(job, stages[job.stage], transport, worker_name())
            if claim is None:
                finish(job, stages, transport)
                return None
            continue
        if outcome.end is End.FAILED:
            fail(job, outcome.error)
        delay = settings.LEASE / 4 if outcome.end is End.BUSY else outcome.wait
        # A worker that shuts down may take its queue along.
        wait = None if transport.stop_requested() else settings.LEASE + (delay or dt.timedelta(0))
        shards.release(outcome.claim, wait=wait)
        # The status is read after the release, or a resume in between would be lost.
        if outcome.end is End.LOST or not shards.is_running(job):
            return None
        if outcome.end is not End.STOPPED:
            return Delivery(job=job, delay=delay)
        claim = _claim(job)


def _claim(job: Job) -> Claim | None:
    """Claim the shard. Of two that claim documents at once, the database may refuse both: they try again apart."""
    tries = CLAIM_TRIES if is_of_documents(job.db_alias) else 1
    for attempt in range(1, tries + 1):
        try:
            return shards.claim(job, worker_name())
        except DatabaseError as error:
            if attempt == tries or not is_transient(error):
                raise
            time.sleep(random.uniform(0, CLAIM_BACK_OFF))
    return None


def worker_name() -> str:
    """Host, process and thread of this worker, as shown to operators."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.current_thread().name}"[:255]


def _lost_claim(job: Job, stages: Sequence[Stage], transport: Transport) -> Delivery | None:
    """Another worker has the shard: deliver again later, for this message may be the only one left when it dies."""
    standing = shards.standing(job)
    if not standing.is_running:
        return None
    if standing.is_done:
        finish(job, stages, transport)
        return None
    return Delivery(job=job, delay=max(settings.LEASE / 4, standing.lease_left))


def _work(claim: Claim, stage: Stage, transport: Transport, deadline: float) -> Outcome:
    """Batch after batch until the shard is done or the job has to end."""
    job = claim.job
    try:
        pace = _pace(claim, stage)
        batch = _Batches(stage, pace)
        progress, throttle = ProgressTeller(), Throttle(stage, job)
        while True:
            started = time.monotonic()
            outcome = _persistently(batch.run, claim, stage.idle_limit or settings.IDLE_LIMIT)
            rows = outcome.claim.processed - claim.processed
            progress.tell(job, rows)
            claim = outcome.claim
            if outcome.end is not End.MORE:
                return outcome
            wait = throttle.wait(rows, time.monotonic() - started)
            if transport.stop_requested() or time.monotonic() >= deadline or wait > SHORT:
                return dataclasses.replace(outcome, wait=wait or None)
            sleep(wait, transport.stop_requested)
            transport.heal(job.db_alias)
            pace.make_room()
    except BaseException:
        # Not the data's fault: give the lease back and let the queue see it.
        with contextlib.suppress(DatabaseError, InterfaceError):
            connections[job.db_alias].close_if_unusable_or_obsolete()
            shards.release(claim, wait=None)
        raise


def _pace(claim: Claim, stage: Stage) -> Pace:
    db_alias, size = claim.job.db_alias, claim.batch_size
    if not isinstance(stage, MappedStage):
        return Pace(db_alias, size=size, max_size=settings.MAX_BATCH_SIZE, fixed_size=None)
    max_size = settings.MAX_SET_SIZE if stage.operation_batch else settings.MAX_BATCH_SIZE
    return Pace(db_alias, size=size, max_size=max_size, fixed_size=stage.batch_size, is_statement=stage.is_statement)


class _Batches:
    """Runs the batches of one job. The first asks for the user's queryset, whose errors are the migration's."""

    def __init__(self, stage: Stage, pace: Pace) -> None:
        self._stage = stage
        self._pace = pace
        self._batch: AtomicBatch | StepwiseBatch | None = None

    def run(self, claim: Claim) -> Outcome:
        try:
            if self._batch is None:
                self._batch = self._kind(claim)(self._stage, self._work(claim), self._pace)
            return self._batch.run(claim)
        except OperationRaised as raised:
            return fail_batch(claim, raised.error)

    def _kind(self, claim: Claim) -> type[AtomicBatch | StepwiseBatch]:
        if not self._stage.atomic:
            return StepwiseBatch
        return SinglyBatch if is_of_documents(claim.job.db_alias) else AtomicBatch

    def _work(self, claim: Claim) -> Work:
        try:
            return work_of(self._stage, claim.job.db_alias, is_redo=claim.is_redo)
        except Exception as error:
            if is_transient(error):
                raise
            raise OperationRaised(error) from error


def _persistently(run_batch: Callable[[Claim], Outcome], claim: Claim, idle_limit: dt.timedelta) -> Outcome:
    """Try a batch again, with growing pauses, when the database refuses it for reasons that pass."""
    sat_idle = 0
    for attempt in range(TRIES):
        started = time.monotonic()
        try:
            return run_batch(claim)
        except Stopped:
            return Outcome(end=End.STOPPED, claim=claim)
        except LostShard:
            logger.info("Lost shard %s of migration %s.", claim.job.shard, claim.job.key)
        except LookAgain:
            logger.info("Rows came in while a batch of %s ran; doing it again.", claim.job.key)
        except RolledBack:
            logger.warning("The server rolled a batch of %s back unnoticed; trying it again.", claim.job.key)
        except (DatabaseError, InterfaceError) as error:
            if not is_transient(error):
                raise
            logger.warning("A batch of %s was refused (%s); trying it again.", claim.job.key, error)
            _back_off(claim, attempt)
            sat_idle += time.monotonic() - started >= idle_limit.total_seconds()
        # The commit may have succeeded although its answer was lost.
        again = _read_again(claim)
        if again is None:
            is_done = shards.standing(claim.job).is_done
            return Outcome(end=End.DONE if is_done else End.LOST, claim=claim)
        claim = again
        if sat_idle == MAX_SAT_IDLE:
            return fail_batch(claim, IdleLimitExceeded(_idle_advice(idle_limit)))
    return Outcome(end=End.BUSY, claim=claim)


def _idle_advice(idle_limit: dt.timedelta) -> str:
    return (
        f"The operation left its connection idle for longer than {idle_limit}, and the server ended the batch's "
        "transaction. Set a longer idle_limit on the migration, make batch_size smaller, or set atomic = False."
    )


def _back_off(claim: Claim, attempt: int) -> None:
    connections[claim.job.db_alias].close_if_unusable_or_obsolete()
    time.sleep(random.uniform(0.5, 1) * min(0.05 * 2**attempt, MAX_BACK_OFF))


def _read_again(claim: Claim) -> Claim | None:
    try:
        return shards.read_again(claim)
    except (DatabaseError, InterfaceError) as error:
        if not is_transient(error):
            raise
        connections[claim.job.db_alias].close_if_unusable_or_obsolete()
        return claim
