"""Batches that run in one transaction with their bookkeeping, and in parts after an error."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

from django.db import DatabaseError, InterfaceError, connections, transaction

from massmigration import text
from massmigration.definitions import callables
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.dialects.documents import MAX_BYTES, MAX_ENTITIES
from massmigration.dialects.errors import is_too_large
from massmigration.documents import session
from massmigration.exceptions import TransactionTooLarge
from massmigration.executor.batch_size import AdaptiveBatchSize, Deadline
from massmigration.executor.bisection import Bisection
from massmigration.executor.errors import CursorStays, OperationRaised, check_not_spoiled, judged, operation_blamed
from massmigration.executor.objects import PendingUpdates
from massmigration.executor.outcomes import Batch, BatchEnd, Effect, Failure, FailurePolicy, ObjectResults, Outcome
from massmigration.executor.processors import Processor
from massmigration.executor.statements import no_implicit_commit, watched
from massmigration.jobs import Job
from massmigration.recorder import events, failures, shards
from massmigration.recorder.shards import Checkpoint, Claim, FencedTransaction, RolledBack, fenced_transaction

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Disable automatic garbage collection in this process for the duration of the block."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_T = TypeVar("_T")


class AtomicBatchRunner:
    """A runner of batches that commits the rows and the checkpoint in one transaction."""

    reads_status = True
    """Whether the record's status is read within the transaction."""

    def __init__(self, stage: Stage, processor: Processor, pace: AdaptiveBatchSize) -> None:
        self._stage = stage
        self._processor = processor
        self._pace = pace
        self._limit: int | None = None
        """The number of rows of the next batch if it is not the adaptive size."""

        self.batch: Batch | None = None
        """The last batch that was fetched, or None."""

        self.before_commit: Callable[[], None] | None = None
        """Called in the transaction, after its last statement."""

        self._commit_duration: dt.timedelta | None = None
        self._commits_since = 0.0
        """The time at which the last COMMIT began, by the monotonic clock."""

    def run(self, claim: Claim) -> Outcome:
        """Run the batch in one transaction.

        If the operation raises, run the batch again object by object, or bisect it if the operation takes sets. Commit
        everything before the failing object, and record the failure.
        """
        self._commit_duration = None
        outcome = self._run_or_split(claim)
        return dataclasses.replace(outcome, commit_duration=self._commit_duration)

    def _run_or_split(self, claim: Claim) -> Outcome:
        try:
            with gc_paused():  # until the objects are freed
                return self._run_whole(claim)
        except OperationRaised as error:
            raised = error
        told = text.line(text.described(raised.error))
        logger.info("A batch of %s raised %s; looking for the object that caused it.", self._stage.name, told)
        try:
            return self._run_in_parts(claim, raised)
        except OperationRaised as error:
            if not error.at_commit:
                raise
            return self._run_in_parts(claim, error)

    def _run_whole(self, claim: Claim) -> Outcome:
        with self._transaction(claim) as fenced:
            batch = self._fetch(claim)
            done, effect = self._call_user_code(lambda: self._run(batch, claim, self._pace.deadline), claim)
            return self._end(fenced, done, [done], effect, is_early=done is not batch)

    @contextlib.contextmanager
    def _transaction(self, claim: Claim) -> Iterator[FencedTransaction]:
        fenced = None
        try:
            with fenced_transaction(
                claim,
                only_if_running=self.reads_status,
                is_marked=True,
                idle_limit=self._stage.idle_limit,
                on_hook_errors=partial(_tell_of_hooks, claim.job),
            ) as fenced:
                self.batch = None
                # Before the functions that the operation registers, which may take longer than the COMMIT.
                transaction.on_commit(self._measure_commit, using=claim.job.db_alias)
                yield fenced
                if self.before_commit:
                    self.before_commit()
                self._commits_since = time.monotonic()
        except (DatabaseError, InterfaceError) as error:  # of constraints and triggers that are deferred to COMMIT
            if fenced is None or not fenced.has_ended:
                raise
            found = judged(error, can_shrink=self._can_shrink, at_commit=True)
            if found is error:
                raise
            raise found from error

    def _measure_commit(self) -> None:
        self._commit_duration = dt.timedelta(seconds=time.monotonic() - self._commits_since)

    @property
    def _can_shrink(self) -> bool:
        return isinstance(self._stage, MappedStage) and self._pace.size > 1

    def _run_in_parts(self, claim: Claim, raised: OperationRaised) -> Outcome:
        with self._transaction(claim) as fenced:
            batch = self._fetch(claim)
            results = ObjectResults(batch, FailurePolicy(self._stage, claim), claim)
            process = self._bisect if self._processor.takes_sets else self._process_objects
            effect = process(claim, batch, raised, results)
            if results.stopped_by is not None:
                return self._fail(fenced, results, effect)
            if results.is_cut_short and results.last is not None:
                batch = self._processor.part(batch, results.rows, results.last)
            elif not results.tolerated:
                self._note_replay(claim, raised)
            return self._end(fenced, batch, results.succeeded, effect, results)

    def _bisect(self, claim: Claim, batch: Batch, raised: OperationRaised, results: ObjectResults) -> Effect:
        """Process the rows of a set in as few calls as find the failing rows, until the deadline or such a failure."""
        rows = self._call_user_code(lambda: self._processor.rows_of(batch), claim)
        bisection, effect = Bisection(len(rows)), Effect()
        while (bounds := bisection.next_part()) is not None:
            if results.entries and self._pace.is_over():
                results.is_cut_short = True
                break
            start, stop = bounds
            part = self._processor.subset(batch, rows[start:stop], rows[start - 1].last if start else claim.after)
            failure = None
            try:
                effect += self._unit(claim, part, raised)
            except OperationRaised as again:
                bisection.failed()
                if part.object_pk is None:
                    continue
                failure = Failure(object_pk=part.object_pk, error=again.error, failed_id=part.failed_id)
            else:
                bisection.passed()
            if not results.add(part, failure):
                break
        return effect

    def _process_objects(self, claim: Claim, batch: Batch, raised: OperationRaised, results: ObjectResults) -> Effect:
        """Process the objects one by one, until the deadline or a failure that is not tolerated."""
        singles = self._call_user_code(lambda: list(self._processor.split_into_objects(batch)), claim)
        effect = Effect()
        for place, single in enumerate(singles):
            if place and self._pace.is_over():
                results.is_cut_short = True
                break
            failure = None
            try:
                effect += self._unit(claim, single, raised)
            except OperationRaised as again:
                failure = Failure(object_pk=single.object_pk, error=again.error, failed_id=single.failed_id)
            if not results.add(single, failure):
                break
        return effect

    def _note_replay(self, claim: Claim, raised: OperationRaised) -> None:
        detail = f"A batch raised {text.described(raised.error)}, but no part of it did when it was processed again."
        events.add(claim.job.db_alias, claim.job.key, "replay", attempt_id=claim.job.attempt_id, detail=detail)

    def _unit(self, claim: Claim, part: Batch, raised: OperationRaised) -> Effect:
        """Process an object or a set of rows in a savepoint. Raise `raised` if a batch has no parts."""
        if not self._processor.has_parts:
            raise raised

        def attempt() -> Effect:
            connection = connections[claim.job.db_alias]
            with transaction.atomic(using=claim.job.db_alias):
                _, effect = self._run(part, claim)
                if raised.at_commit:
                    connection.check_constraints()
                check_not_spoiled(claim.job.db_alias)
            return effect

        try:
            return self._call_user_code(attempt, claim, is_one=part.object_pk is not None)
        except OperationRaised as error:
            if connections[claim.job.db_alias].needs_rollback:  # the savepoint is gone, and the transaction with it
                raise RolledBack from error
            raise

    def _fetch(self, claim: Claim) -> Batch:
        self._pace.start()
        limit = self._limit or self._pace.size
        batch = self._call_user_code(lambda: self._processor.fetch(claim, limit, may_lock=True), claim)
        check_moves(claim, batch)
        self.batch = batch
        self._pace.has_read()
        return batch

    def _run(self, batch: Batch, claim: Claim, until: Deadline | None = None) -> tuple[Batch, Effect]:
        """Run the operation and write its changes. Return the part of the batch that was processed."""
        db_alias, updates = claim.job.db_alias, PendingUpdates()
        with watched(db_alias) as statements:
            done = self._processor.process(batch, updates, until)
        written = updates.write(db_alias, are_held=self._processor.holds_rows, may_delete=statements.may_delete)
        return done, statements.effect(written)

    def _call_user_code(self, call: Callable[[], _T], claim: Claim, *, is_one: bool = False) -> _T:
        """Call a function that runs the user's code. `is_one`: for one object, so a smaller batch is impossible."""
        with (
            operation_blamed(can_shrink=self._can_shrink and not is_one),
            no_implicit_commit(claim.job.db_alias),
            callables.exits_refused(f"Migration {self._stage.name!r}"),
        ):
            return call()

    def _end(
        self,
        fenced: FencedTransaction,
        batch: Batch,
        done: Sequence[Batch],
        effect: Effect,
        results: ObjectResults | None = None,
        *,
        is_early: bool = False,
    ) -> Outcome:
        """Save the checkpoint of a batch. `results`: the results of single objects, if there are any."""
        claim = fenced.claim
        tolerated = results.tolerated if results else []
        with self._own_statements_blamed():
            if claim.has_failures:
                failures.resolve(claim.job)
            record_tolerated(claim, self._processor, batch.last, tolerated)
        skipped = batch.skipped + effect.skipped
        checkpoint = Checkpoint(
            cursor=batch.last if batch.last is not None else claim.cursor,
            is_done=batch.is_last,
            processed=batch.count - skipped - len(tolerated),
            skipped=skipped,
            changed=effect.changed,
            failed=len(tolerated),
            consecutive_failures=results.consecutive_failures if results else 0,
            batch_size=self._next_size(batch, is_early or (results is not None and results.is_cut_short)),
            still_matched=self._still_matches(claim, done),
        )
        ended = self._checkpoint(fenced, checkpoint)
        return Outcome(end=BatchEnd.DONE if batch.is_last else BatchEnd.MORE, claim=ended)

    def _next_size(self, batch: Batch, is_early: bool) -> int:
        if self._limit is not None:
            return self._pace.size
        return self._pace.adapt(batch.count, is_early=is_early, is_last=batch.is_last)

    def _fail(self, fenced: FencedTransaction, results: ObjectResults, effect: Effect) -> Outcome:
        """Commit the objects before the one that stopped the batch, and its failure. The cursor stays before it."""
        claim, stopped_by = fenced.claim, results.stopped_by
        assert stopped_by is not None
        with self._own_statements_blamed():
            failures.resolve(claim.job)  # the same object may have failed before a crash
            failures.add(claim.job, stopped_by.object_pk, stopped_by.error, is_behind_cursor=False)
            record_tolerated(claim, self._processor, results.last, results.tolerated)
        checkpoint = Checkpoint(
            cursor=results.last if results.last is not None else claim.cursor,
            is_done=False,
            processed=results.rows - len(results.tolerated) - effect.skipped,
            skipped=effect.skipped,
            changed=effect.changed,
            failed=len(results.tolerated) + 1,
            consecutive_failures=results.consecutive_failures,
            batch_size=claim.batch_size,
            still_matched=self._still_matches(claim, results.succeeded),
        )
        ended = self._checkpoint(fenced, checkpoint)
        return Outcome(end=BatchEnd.FAILED, claim=ended, error=results.reason)

    def _still_matches(self, claim: Claim, done: Sequence[Batch]) -> bool:
        return claim.still_matched or bool(self._call_user_code(lambda: self._processor.still_matches(done), claim))

    def _checkpoint(self, fenced: FencedTransaction, checkpoint: Checkpoint) -> Claim:
        with self._own_statements_blamed():
            return fenced.checkpoint(checkpoint)

    def _own_statements_blamed(self) -> AbstractContextManager[None]:
        """Blame the operation for errors of the engine's statements: it may have broken the transaction."""
        return operation_blamed(DatabaseError, can_shrink=self._can_shrink)


def check_moves(claim: Claim, batch: Batch) -> None:
    """Raise `CursorStays` if the batch would end at the key where it starts: its rows would be processed forever."""
    if batch.count and not batch.is_last and batch.last == claim.after:
        raise CursorStays(
            f"The batch after key {claim.after!r} ends with the same key, although it has "
            f"{text.counted(batch.count, 'row')}: the database compares the stored key as greater than the value that "
            "it returned. Set cursor_field to a field whose values the database returns exactly as it stores them."
        )


def _tell_of_hooks(job: Job, raised: list[Exception]) -> None:
    """Record that functions given to `on_commit` raised. They are not called again: the batch is committed."""
    first = failures.describe(None, raised[0])
    detail = f"{len(raised)} of the functions passed to on_commit raised an exception. The first: {first}"
    with contextlib.suppress(DatabaseError, InterfaceError):
        events.add(job.db_alias, job.key, "on_commit failed", attempt_id=job.attempt_id, detail=detail)


def record_tolerated(claim: Claim, processor: Processor, last: list[Any] | None, passed: Sequence[Failure]) -> None:
    """Record the tolerated failures of a batch that moves the cursor to `last`."""
    for failure in passed:
        if failure.failed_id is None:
            failures.add(claim.job, failure.object_pk, failure.error, is_behind_cursor=True)
        else:
            failures.again(claim.job, failure.failed_id, failure.error)
    processor.resolve_failures(claim, last, [failure.failed_id for failure in passed if failure.failed_id is not None])


def _is_too_large(error: Exception) -> bool:
    return isinstance(error, TransactionTooLarge) or is_too_large(error)


class PrefetchRaised(OperationRaised):
    """An error while fetching the keys of the next objects. It belongs to no single object."""


class DocumentBatchRunner(AtomicBatchRunner):
    """A runner of batches on a document database.

    A query inside a transaction locks its whole range, with the gaps between the rows. So the keys of the next rows
    are fetched before the transaction, and the rows are read by key inside it. The transaction does not read the
    record either, because an operator could not write it then. The status is read before the transaction, and whatever
    replaces the attempt raises the fence.
    """

    reads_status = False

    def _run_whole(self, claim: Claim) -> Outcome:
        while True:
            try:
                return self._once(claim)
            except OperationRaised as error:
                if self._limit is not None or self._pace.size == 1 or not _is_too_large(error.error):
                    raise
            self._pace.shrink()
            logger.info("A batch of %s was too large; trying again with %s rows.", self._stage.name, self._pace.size)

    def _once(self, claim: Claim) -> Outcome:
        shards.check_runs(claim)
        limit = self._limit or self._pace.size
        try:
            self._call_user_code(lambda: self._processor.prefetch_keys(claim, limit), claim)
        except OperationRaised as error:
            raise PrefetchRaised(error.error) from error
        return super()._run_whole(claim)

    def _checkpoint(self, fenced: FencedTransaction, checkpoint: Checkpoint) -> Claim:
        ended = super()._checkpoint(fenced, checkpoint)
        count, size = session.written(fenced.claim.job.db_alias)
        # Checked before the commit: a refused commit would leave the rows locked.
        if count > MAX_ENTITIES or size > MAX_BYTES:
            raise OperationRaised(
                TransactionTooLarge(
                    f"One object needs {text.counted(count, 'entity', 'entities')} of {size} bytes in one transaction; "
                    f"allowed: {MAX_ENTITIES} entities and {MAX_BYTES} bytes. Write fewer entities per object, or set "
                    "atomic = False."
                )
            )
        return ended

    def _run_in_parts(self, claim: Claim, raised: OperationRaised) -> Outcome:
        """Process the batch in parts, each in a transaction of its own: there are no savepoints."""
        if isinstance(raised, PrefetchRaised) or not self._processor.has_parts:
            raise raised
        outcome = Outcome(end=BatchEnd.MORE, claim=claim)
        if not self._processor.takes_sets:
            for _ in range(self._pace.size):
                outcome = self._part(outcome.claim, 1) or outcome
                if outcome.end is not BatchEnd.MORE:
                    break
            return outcome
        bisection = Bisection(self._pace.size)
        while outcome.end is BatchEnd.MORE and (bounds := bisection.next_part()) is not None:
            start, stop = bounds
            found = self._part(outcome.claim, stop - start)
            if found is None:
                bisection.failed()
            else:
                outcome = found
                bisection.passed()
        return outcome

    def _part(self, claim: Claim, size: int) -> Outcome | None:
        """Process the next `size` objects. Return None if one of several has failed."""
        self._limit = size
        try:
            return self._run_whole(claim)
        except PrefetchRaised:
            raise
        except OperationRaised as again:
            return self._skip_object(claim, again) if size == 1 else None
        finally:
            self._limit = None

    def _skip_object(self, claim: Claim, raised: OperationRaised) -> Outcome:
        """Record the failure of the next object, and skip it if the failure is tolerated."""
        with self._transaction(claim) as fenced:
            batch = self._fetch(claim)
            single = next(
                iter(self._call_user_code(lambda: list(self._processor.split_into_objects(batch)), claim)), None
            )
            if single is None:  # it was deleted in the meantime
                return self._end(fenced, batch, [batch], Effect())
            results = ObjectResults(batch, FailurePolicy(self._stage, claim), claim)
            failure = Failure(object_pk=single.object_pk, error=raised.error, failed_id=single.failed_id)
            if results.add(single, failure):
                return self._end(fenced, batch, [], Effect(), results)
            return self._fail(fenced, results, Effect())
