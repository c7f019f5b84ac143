"""Batches without a surrounding transaction, for operations with effects outside the database."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from django.db import DatabaseError, connections

from massmigration import text
from massmigration.conf import settings
from massmigration.definitions import callables
from massmigration.definitions.stages import Stage
from massmigration.exceptions import LostShard
from massmigration.executor.atomic_batch import check_moves, record_tolerated
from massmigration.executor.batch_size import AdaptiveBatchSize
from massmigration.executor.errors import OperationRaised, judged, operation_blamed
from massmigration.executor.objects import PendingUpdates, Written
from massmigration.executor.outcomes import (
    Batch,
    BatchEnd,
    Effect,
    Failure,
    FailurePolicy,
    ObjectResults,
    Outcome,
    fail_batch,
)
from massmigration.executor.processors import Processor
from massmigration.executor.statements import Statements, watched
from massmigration.recorder import failures, shards
from massmigration.recorder.shards import Checkpoint, Claim, FencedTransaction, RolledBack, fenced_transaction

logger = logging.getLogger(__name__)


class NonAtomicBatchRunner:
    """A runner of batches of a stage with `atomic = False`.

    It saves a checkpoint after each batch, or after the last successful object if an object fails.

    The engine writes the changed fields of the objects in the checkpoint's transaction, protected by the fence.
    """

    def __init__(self, stage: Stage, processor: Processor, pace: AdaptiveBatchSize) -> None:
        self._stage = stage
        self._processor = processor
        self._pace = pace
        self.batch: Batch | None = None
        """The last batch that was fetched, or None."""

    def run(self, claim: Claim) -> Outcome:
        with fenced_transaction(claim, only_if_running=True) as fenced:
            claim = fenced.end_without_checkpoint()
        self._pace.start()
        updates = PendingUpdates()
        with lease_kept(claim), watched(claim.job.db_alias) as statements:
            results = self._process(claim, updates)
        try:
            return self._checkpoint(claim, results, statements, updates)
        except OperationRaised as raised:
            told = text.described(raised.error)
            message = "Writing a batch of %s raised %s; writing its objects one by one."
            logger.warning(message, self._stage.name, text.line(told))
        try:
            return self._checkpoint(claim, results, statements, updates, one_by_one=True)
        except OperationRaised as raised:  # at the commit: it is no single object's
            return fail_batch(claim, raised.error)

    def _process(self, claim: Claim, updates: PendingUpdates) -> ObjectResults:
        """Process the batch object by object, or in one call if the stage has no objects."""
        policy = FailurePolicy(self._stage, claim)
        try:
            can_shrink = self._pace.size > 1
            with operation_blamed(can_shrink=can_shrink), callables.exits_refused(f"Migration {self._stage.name!r}"):
                batch = self._processor.fetch(claim, self._pace.size, may_lock=False)
        except OperationRaised as raised:
            results = ObjectResults(Batch(last=None, count=0), policy, claim)
            results.add(results.batch, Failure(object_pk=None, error=raised.error))
            return results
        self._pace.has_read()
        check_moves(claim, batch)
        self.batch = batch
        results = ObjectResults(batch, policy, claim)
        for single in self._processor.split_into_objects(batch) if batch.objects else [batch]:
            if results.entries and self._pace.is_over():
                results.is_cut_short = True
                break
            failure = None
            try:
                self._processor.process(single, updates)
            except Exception as error:
                found = judged(error)
                if not isinstance(found, OperationRaised):
                    if not results.entries:
                        raise
                    # Keep the objects that were processed before the database refused the batch.
                    connections[claim.job.db_alias].close_if_unusable_or_obsolete()
                    results.is_cut_short = True
                    break
                failure = Failure(object_pk=single.object_pk, error=found.error, failed_id=single.failed_id)
            if not results.add(single, failure):
                break
        return results

    def _checkpoint(
        self,
        claim: Claim,
        results: ObjectResults,
        statements: Statements,
        updates: PendingUpdates,
        *,
        one_by_one: bool = False,
    ) -> Outcome:
        """Write the changed fields and the checkpoint in one transaction.

        Raise `OperationRaised` if the objects cannot be written, or the commit is refused, or the queryset raises
        when it is asked whether it still has them.
        """
        try:
            with fenced_transaction(claim) as fenced:
                if one_by_one:
                    results, written = self._write_one_by_one(claim, results, updates)
                else:
                    written = updates.write(claim.job.db_alias)
                return self._end(fenced, results, statements.effect(written))
        except (LostShard, RolledBack):
            raise
        except Exception as error:
            found = judged(error)
            if found is error:
                raise
            raise found from error

    def _write_one_by_one(
        self, claim: Claim, processed: ObjectResults, updates: PendingUpdates
    ) -> tuple[ObjectResults, Written]:
        """Write the objects one by one. Return the results, in which objects that cannot be written have failed."""
        results, written = ObjectResults(processed.batch, processed.policy, claim), Written()
        results.is_cut_short = processed.is_cut_short
        for single, failure in processed.entries:
            if failure is None:
                try:
                    for obj in single.objects:
                        written += updates.write_object(claim.job.db_alias, obj)
                except Exception as error:
                    if not isinstance(judged(error), OperationRaised):
                        raise
                    failure = Failure(object_pk=single.object_pk, error=error, failed_id=single.failed_id)
            if not results.add(single, failure):
                break
        return results, written

    def _end(self, fenced: FencedTransaction, results: ObjectResults, effect: Effect) -> Outcome:
        claim, batch, failure = fenced.claim, results.batch, results.stopped_by
        last = batch.last if results.is_whole else results.last
        if not results.is_whole and last is not None:
            batch = self._processor.part(batch, results.rows, last)
        checkpoint = Checkpoint(
            cursor=last if last is not None else claim.cursor,
            is_done=results.is_whole and batch.is_last,
            processed=results.rows - len(results.tolerated) - effect.skipped,
            changed=effect.changed,
            skipped=effect.skipped + (batch.skipped if last is not None else 0),
            failed=len(results.tolerated) + (failure is not None),
            consecutive_failures=results.consecutive_failures,
            batch_size=self._next_size(results, batch),
            still_matched=claim.still_matched or self._processor.still_matches(results.succeeded),
        )
        ended = fenced.checkpoint(checkpoint)
        if failure is not None or claim.has_failures:
            failures.resolve(claim.job)
        record_tolerated(claim, self._processor, last, results.tolerated)
        if failure is not None:
            failures.add(claim.job, failure.object_pk, failure.error, is_behind_cursor=False)
            return Outcome(end=BatchEnd.FAILED, claim=ended, error=results.reason)
        return Outcome(end=BatchEnd.DONE if checkpoint.is_done else BatchEnd.MORE, claim=ended)

    def _next_size(self, results: ObjectResults, batch: Batch) -> int:
        if results.stopped_by is not None:
            return self._pace.size
        return self._pace.adapt(batch.count, is_early=results.is_cut_short, is_last=batch.is_last)


@contextlib.contextmanager
def lease_kept(claim: Claim) -> Iterator[None]:
    """Renew the lease during the batch. Without a transaction, no row lock excludes other workers."""
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
