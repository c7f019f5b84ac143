"""One batch without a surrounding transaction, for operations with effects elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator

from django.db import DatabaseError, connections
from django.db.models import Model

from massmigration.conf import settings
from massmigration.definitions.stages import Stage
from massmigration.exceptions import LostShard
from massmigration.executor.changes import Writes
from massmigration.executor.outcome import End, Failure, OperationRaised, Outcome, Stopped
from massmigration.executor.pace import Pace
from massmigration.executor.work import Portion, Work
from massmigration.recorder import failures, shards
from massmigration.recorder.shards import Claim, Progress
from massmigration.transactions import engine_transaction
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What was done of a portion."""

    portion: Portion
    done: list[Portion]
    failure: Failure | None = None
    is_whole: bool = True
    """False: the rest is for the next batch, although nothing failed."""


class StepwiseBatch:
    """Runs batches of a stage with `atomic = False`: a checkpoint after each, on an error after the last good object.

    What the engine writes for the operation is written in the checkpoint's transaction, behind the fence.
    """

    def __init__(self, stage: Stage, work: Work, pace: Pace) -> None:
        self._stage = stage
        self._work = work
        self._pace = pace

    def run(self, claim: Claim) -> Outcome:
        claim = self._begin(claim)
        self._pace.start()
        writes = Writes()
        with lease_kept(claim):
            steps = self._steps(claim, writes)
        try:
            return self._checkpoint(claim, steps, writes)
        except OperationRaised as raised:
            logger.warning("What %s assigned raised %r; writing it one by one.", self._stage.name, raised.error)
            return self._checkpoint(claim, steps, writes, singly=True)

    def _begin(self, claim: Claim) -> Claim:
        with engine_transaction(claim.job.db_alias):
            if not shards.begin_batch(claim):
                raise LostShard
            if not shards.is_running(claim.job):
                raise Stopped
        return dataclasses.replace(claim, fence=claim.fence + 1)

    def _steps(self, claim: Claim, writes: Writes) -> Steps:
        """Object by object, or all at once where there are none to go by. Stops at the first that raises."""
        portion, unit = Portion(last=None, count=0), None
        done: list[Portion] = []
        try:
            portion = self._work.fetch(claim, self._pace.size, may_lock=False)
            for unit in self._work.units(portion) if portion.objects else [portion]:
                self._work.operate(unit, writes)
                done.append(unit)
        except Exception as error:
            if not is_transient(error):
                object_pk = unit.last if unit and unit.objects else None
                return Steps(portion=portion, done=done, failure=Failure(object_pk=object_pk, error=error))
            if not done:
                raise
            connections[claim.job.db_alias].close_if_unusable_or_obsolete()
            return Steps(portion=portion, done=done, is_whole=False)
        return Steps(portion=portion, done=done)

    def _checkpoint(self, claim: Claim, steps: Steps, writes: Writes, *, singly: bool = False) -> Outcome:
        try:
            with engine_transaction(claim.job.db_alias):
                if not shards.begin_batch(claim):
                    raise LostShard
                if singly:
                    skipped, bad = writes.flush_singly(claim.job.db_alias)
                    steps = _up_to(bad, steps)
                else:
                    skipped = writes.flush(claim.job.db_alias)
                return self._end(claim, steps, skipped)
        except DatabaseError as error:
            if singly or is_transient(error):
                raise
            raise OperationRaised(error) from error

    def _end(self, claim: Claim, steps: Steps, skipped: int) -> Outcome:
        portion, failure = steps.portion, steps.failure
        is_whole = steps.is_whole and failure is None
        last = portion.last if is_whole else (steps.done[-1].last if steps.done else None)
        progress = Progress(
            cursor=last if last is not None else claim.cursor,
            is_done=is_whole and portion.is_last,
            processed=sum(unit.count for unit in steps.done) - skipped,
            skipped=skipped + (portion.skipped if is_whole else 0),
            failed=0 if failure is None else 1,
            batch_size=self._pace.adapt(portion.count),
        )
        ended = shards.end_batch(claim, progress)
        if ended is None:
            raise LostShard
        if failure is not None or claim.has_failures:
            failures.resolve(claim.job)
        if failure is not None:
            failures.add(claim.job, failure.object_pk, failure.error, was_passed=False)
            error = failures.describe(failure.object_pk, failure.error)
            return Outcome(end=End.FAILED, claim=ended, error=error)
        return Outcome(end=End.DONE if progress.is_done else End.MORE, claim=ended)


def _up_to(bad: tuple[Model, Exception] | None, steps: Steps) -> Steps:
    """The steps before the object that could not be written, and its failure."""
    if bad is None:
        return steps
    obj, error = bad
    index = next(index for index, unit in enumerate(steps.done) if unit.objects and unit.objects[0] is obj)
    failure = Failure(object_pk=steps.done[index].last, error=error)
    return dataclasses.replace(steps, done=steps.done[:index], failure=failure)


@contextlib.contextmanager
def lease_kept(claim: Claim) -> Iterator[None]:
    """Renew the lease beside the work: no row lock keeps the others away from a batch without a transaction."""
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(claim, ended), name="massmigration-lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()


def _keep(claim: Claim, ended: threading.Event) -> None:
    try:
        while not ended.wait(settings.LEASE.total_seconds() / 3):
            try:
                if not shards.renew(claim):
                    return
            except DatabaseError:
                logger.warning("Could not renew the lease of %s.", claim.job, exc_info=True)
                connections[claim.job.db_alias].close()
    finally:
        connections[claim.job.db_alias].close()
