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
from massmigration.executor.batch import record_passed
from massmigration.executor.changes import Writes
from massmigration.executor.outcome import End, Failure, OperationRaised, Outcome, Stopped
from massmigration.executor.pace import Pace
from massmigration.executor.tolerance import Tolerance
from massmigration.executor.work import Portion, Work
from massmigration.recorder import failures, shards
from massmigration.recorder.shards import Claim, Progress
from massmigration.transactions import engine_transaction
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How far a portion was gone through."""

    portion: Portion
    gone: list[Portion]
    """The units that the cursor goes beyond."""

    borne: dict[int, Failure]
    """Those of them that failed, by their place."""

    failure: Failure | None = None
    """The one that was not borne; the cursor stands before it."""

    error: str = ""
    """What ended the run with it."""

    is_whole: bool = True
    """False: the rest is for the next batch, although nothing failed."""

    def failed_in_a_row(self, before: int) -> int:
        """How many of the last ones failed, after `before` that did before the first."""
        for count, place in enumerate(reversed(range(len(self.gone)))):
            if place not in self.borne:
                return count
        return before + len(self.gone)


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
        """Object by object, or all at once where there are none to go by."""
        try:
            portion = self._work.fetch(claim, self._pace.size, may_lock=False)
        except Exception as error:
            if is_transient(error):
                raise
            failure = Failure(object_pk=None, error=error)
            described = failures.describe(None, error)
            return Steps(portion=Portion(last=None, count=0), gone=[], borne={}, failure=failure, error=described)
        tolerance = Tolerance(self._stage, claim)
        steps = Steps(portion=portion, gone=[], borne={})
        for unit in self._work.units(portion) if portion.objects else [portion]:
            try:
                self._work.operate(unit, writes)
            except Exception as error:
                if is_transient(error):
                    return self._interrupted(claim, steps, error)
                failure = Failure(object_pk=unit.object_pk, error=error, failed_id=unit.failed_id)
                failed, in_a_row = len(steps.borne) + 1, steps.failed_in_a_row(claim.failed_in_a_row) + 1
                if unit.object_pk is None or not tolerance.bears(failed, in_a_row):
                    return dataclasses.replace(
                        steps, failure=failure, error=tolerance.explain(failure, failed, in_a_row)
                    )
                steps.borne[len(steps.gone)] = failure
            steps.gone.append(unit)
        return steps

    def _interrupted(self, claim: Claim, steps: Steps, error: Exception) -> Steps:
        """Keep what was done before the database refused to go on."""
        if not steps.gone:
            raise error
        connections[claim.job.db_alias].close_if_unusable_or_obsolete()
        return dataclasses.replace(steps, is_whole=False)

    def _checkpoint(self, claim: Claim, steps: Steps, writes: Writes, *, singly: bool = False) -> Outcome:
        try:
            with engine_transaction(claim.job.db_alias):
                if not shards.begin_batch(claim):
                    raise LostShard
                if singly:
                    tolerance = Tolerance(self._stage, claim)
                    skipped, bad = writes.flush_singly(
                        claim.job.db_alias, lambda bad: _without(bad, steps, tolerance, claim).failure is None
                    )
                    steps = _without(bad, steps, tolerance, claim)
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
        last = portion.last if is_whole else (steps.gone[-1].last if steps.gone else None)
        progress = Progress(
            cursor=last if last is not None else claim.cursor,
            is_done=is_whole and portion.is_last,
            processed=sum(unit.count for unit in steps.gone) - len(steps.borne) - skipped,
            skipped=skipped + (portion.skipped if is_whole else 0),
            failed=len(steps.borne) + (0 if failure is None else 1),
            failed_in_a_row=steps.failed_in_a_row(claim.failed_in_a_row) + (0 if failure is None else 1),
            batch_size=self._pace.adapt(portion.count),
            has_stayed=claim.has_stayed or self._work.still_has(_done(steps)),
        )
        ended = shards.end_batch(claim, progress)
        if ended is None:
            raise LostShard
        if failure is not None or claim.has_failures:
            failures.resolve(claim.job)
        record_passed(claim, self._work, last, list(steps.borne.values()))
        if failure is not None:
            failures.add(claim.job, failure.object_pk, failure.error, was_passed=False)
            return Outcome(end=End.FAILED, claim=ended, error=steps.error)
        return Outcome(end=End.DONE if progress.is_done else End.MORE, claim=ended)


def _done(steps: Steps) -> list[Portion]:
    return [unit for place, unit in enumerate(steps.gone) if place not in steps.borne]


def _without(bad: list[tuple[Model, Exception]], steps: Steps, tolerance: Tolerance, claim: Claim) -> Steps:
    """The steps, with the objects that could not be written among the failures."""
    places = {id(unit.objects[0]): place for place, unit in enumerate(steps.gone) if unit.objects}
    borne = dict(steps.borne)
    for obj, error in bad:
        place = places[id(obj)]
        unit = steps.gone[place]
        failure = Failure(object_pk=unit.object_pk, error=error, failed_id=unit.failed_id)
        before = Steps(
            portion=steps.portion,
            gone=steps.gone[:place],
            borne={index: earlier for index, earlier in borne.items() if index < place},
        )
        failed, in_a_row = len(borne) + 1, before.failed_in_a_row(claim.failed_in_a_row) + 1
        if not tolerance.bears(failed, in_a_row):
            return dataclasses.replace(before, failure=failure, error=tolerance.explain(failure, failed, in_a_row))
        borne[place] = failure
    return dataclasses.replace(steps, borne=borne)


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
