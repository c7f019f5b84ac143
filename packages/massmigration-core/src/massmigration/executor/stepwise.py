"""One batch without a surrounding transaction, for operations with effects elsewhere."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from django.db import DatabaseError, connections

from massmigration.conf import settings
from massmigration.definitions.stages import Stage
from massmigration.exceptions import LostShard
from massmigration.executor.changes import Writes
from massmigration.executor.outcome import End, Failure, Outcome, Stopped
from massmigration.executor.pace import Pace
from massmigration.executor.work import Portion, Work
from massmigration.recorder import failures, shards
from massmigration.recorder.shards import Claim, Progress
from massmigration.transactions import engine_transaction

logger = logging.getLogger(__name__)


class StepwiseBatch:
    """Runs batches of a stage with `atomic = False`: a checkpoint after each, on an error after the last good object.

    What the engine writes for the operation is written in the checkpoint's transaction, behind the fence.
    """

    def __init__(self, stage: Stage, work: Work, pace: Pace) -> None:
        self._stage = stage
        self._work = work
        self._pace = pace

    def run(self, claim: Claim) -> Outcome:
        with engine_transaction(claim.job.db_alias):
            if not shards.begin_batch(claim):
                raise LostShard
            if not shards.is_running(claim.job):
                raise Stopped
        self._pace.start()
        writes = Writes()
        with lease_kept(claim):
            portion = self._work.fetch(claim, self._pace.size, may_lock=False)
            done, failure = self._operate(portion, writes)
        return self._checkpoint(claim, portion, done, failure, writes)

    def _operate(self, portion: Portion, writes: Writes) -> tuple[list[Portion], Failure | None]:
        """Object by object, or all at once where there are none to go by. Stops at the first that raises."""
        done: list[Portion] = []
        for unit in self._work.units(portion) if portion.objects else [portion]:
            try:
                self._work.operate(unit, writes)
            except Exception as error:
                return done, Failure(object_pk=unit.last if unit.objects else None, error=error)
            done.append(unit)
        return done, None

    def _checkpoint(
        self, claim: Claim, portion: Portion, done: list[Portion], failure: Failure | None, writes: Writes
    ) -> Outcome:
        processed = sum(unit.count for unit in done)
        last = portion.last if failure is None else (done[-1].last if done else claim.cursor)
        progress = Progress(
            cursor=last if last is not None else claim.cursor,
            is_done=failure is None and portion.is_last,
            processed=processed,
            skipped=portion.skipped,
            failed=0 if failure is None else 1,
            batch_size=self._pace.adapt(portion.count),
        )
        with engine_transaction(claim.job.db_alias):
            ended = shards.end_batch(claim, progress)
            if ended is None:
                raise LostShard
            writes.flush(claim.job.db_alias)
            if failure is not None or claim.has_failures:
                failures.resolve(claim.job)
            if failure is not None:
                failures.add(claim.job, failure.object_pk, failure.error, was_passed=False)
        if failure is not None:
            error = failures.describe(failure.object_pk, failure.error)
            return Outcome(end=End.FAILED, claim=ended, error=error)
        return Outcome(end=End.DONE if portion.is_last else End.MORE, claim=ended)


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
