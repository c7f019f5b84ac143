"""One batch in one transaction with its bookkeeping; on an error, once more object by object."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from django.db import DatabaseError, IntegrityError, connections, transaction

from massmigration.definitions.stages import OnceStage, Stage
from massmigration.exceptions import LostShard
from massmigration.executor.changes import Writes
from massmigration.executor.collector import collector_paused
from massmigration.executor.guards import check_not_spoiled, explained, no_implicit_commit
from massmigration.executor.outcome import End, Failure, LookAgain, OperationRaised, Outcome, RolledBack, Stopped
from massmigration.executor.pace import Pace
from massmigration.executor.tolerance import Tolerance
from massmigration.executor.work import Portion, Work
from massmigration.recorder import events, failures, shards
from massmigration.recorder.shards import Claim, Progress
from massmigration.transactions import engine_transaction
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclasses.dataclass(kw_only=True)
class Tally:
    """How going through a batch object by object went."""

    last: list[Any] | None
    """Where the cursor stands after it."""

    done: list[Portion] = dataclasses.field(default_factory=list)
    skipped: int = 0
    passed: list[Failure] = dataclasses.field(default_factory=list)
    """The failures that were borne."""

    last_failure: Failure | None = None
    """The one that was not."""

    error: str = ""
    """What ended the run with it."""

    failed_in_a_row: int


class AtomicBatch:
    """Runs batches of a stage whose rows and bookkeeping commit together."""

    def __init__(self, stage: Stage, work: Work, pace: Pace) -> None:
        self._stage = stage
        self._work = work
        self._pace = pace
        self._limit: int | None = None
        """Rows of the next batch, if not as many as the pace says."""

    def run(self, claim: Claim) -> Outcome:
        """The batch at once; if the operation raises, everything before the guilty object, and its failure."""
        try:
            with collector_paused():  # until the objects are gone again
                return self._at_once(claim)
        except OperationRaised as error:
            raised = error
        logger.info("A batch of %s raised %r; going through it object by object.", self._stage.name, raised.error)
        try:
            return self._by_object(claim, raised)
        except OperationRaised as error:
            if not error.at_commit:
                raise
            return self._by_object(claim, error)

    def _at_once(self, claim: Claim) -> Outcome:
        with self._transaction(claim):
            portion = self._begin(claim)
            skipped = self._guarded(lambda: self._run(portion, claim), claim)
            return self._end(claim, portion, [portion], skipped=portion.skipped + skipped)

    @contextlib.contextmanager
    def _transaction(self, claim: Claim) -> Iterator[None]:
        try:
            with engine_transaction(claim.job.db_alias, idle_limit=self._stage.idle_limit):
                yield
        except IntegrityError as error:  # of constraints that the database checks at COMMIT
            raise OperationRaised(error, at_commit=True) from error

    def _by_object(self, claim: Claim, raised: OperationRaised) -> Outcome:
        with self._transaction(claim):
            portion = self._begin(claim)
            units = list(self._guarded(lambda: list(self._work.units(portion)), claim))
            tally = self._go_through(claim, units, raised)
            if tally.last_failure is not None:
                return self._fail(claim, tally)
            self._note_replay(claim, raised, tally)
            return self._end(
                claim,
                portion,
                tally.done,
                skipped=portion.skipped + tally.skipped,
                passed=tally.passed,
                failed_in_a_row=tally.failed_in_a_row,
            )

    def _go_through(self, claim: Claim, units: list[Portion], raised: OperationRaised) -> Tally:
        """Each object by itself, up to the first failure that is not borne."""
        tally = Tally(last=claim.cursor, failed_in_a_row=claim.failed_in_a_row)
        tolerance = Tolerance(self._stage, claim)
        for unit in units:
            try:
                tally.skipped += self._unit(claim, unit, raised)
            except OperationRaised as again:
                failure = Failure(object_pk=unit.object_pk, error=again.error, failed_id=unit.failed_id)
                failed, tally.failed_in_a_row = len(tally.passed) + 1, tally.failed_in_a_row + 1
                if not tolerance.bears(failed, tally.failed_in_a_row):
                    tally.last_failure = failure
                    tally.error = tolerance.explain(failure, failed, tally.failed_in_a_row)
                    return tally
                tally.passed.append(failure)
            else:
                tally.done.append(unit)
                tally.failed_in_a_row = 0
            tally.last = unit.last
        return tally

    def _note_replay(self, claim: Claim, raised: OperationRaised, tally: Tally) -> None:
        if not tally.passed:
            detail = f"A batch raised {raised.error!r}, but none of its objects did."
            events.add(claim.job.db_alias, claim.job.key, "replay", attempt_id=claim.job.attempt_id, detail=detail)

    def _unit(self, claim: Claim, unit: Portion, raised: OperationRaised) -> int:
        """One object in a savepoint. A stage that is done once has shown already what it raises."""
        if isinstance(self._stage, OnceStage):
            raise raised

        def attempt() -> int:
            connection = connections[claim.job.db_alias]
            with transaction.atomic(using=claim.job.db_alias):
                skipped = self._run(unit, claim)
                if raised.at_commit:
                    connection.check_constraints()
                check_not_spoiled(claim.job.db_alias)
            return skipped

        try:
            return self._guarded(attempt, claim)
        except OperationRaised as error:
            if connections[claim.job.db_alias].needs_rollback:  # the savepoint is gone, and the transaction with it
                raise RolledBack from error
            raise

    def _begin(self, claim: Claim) -> Portion:
        if not shards.begin_batch(claim):
            raise LostShard
        if not shards.is_running(claim.job):
            raise Stopped
        self._pace.start()
        return self._guarded(lambda: self._work.fetch(claim, self._limit or self._pace.size, may_lock=True), claim)

    def _run(self, portion: Portion, claim: Claim) -> int:
        """Operate and write. Return how many of the rows to be written had vanished."""
        writes = Writes()
        self._work.operate(portion, writes)
        return writes.flush(claim.job.db_alias)

    def _guarded(self, call: Callable[[], _T], claim: Claim) -> _T:
        """Call what runs the user's code; the only place where its exceptions are caught."""
        try:
            with no_implicit_commit(claim.job.db_alias):
                return call()
        except LookAgain:
            raise
        except Exception as error:
            if is_transient(error):
                raise
            raise OperationRaised(explained(error)) from error

    def _end(
        self,
        claim: Claim,
        portion: Portion,
        done: Sequence[Portion],
        *,
        skipped: int,
        passed: Sequence[Failure] = (),
        failed_in_a_row: int = 0,
    ) -> Outcome:
        if claim.has_failures:
            failures.resolve(claim.job)
        record_passed(claim, self._work, portion.last, passed)
        progress = Progress(
            cursor=portion.last if portion.last is not None else claim.cursor,
            is_done=portion.is_last,
            processed=portion.count - skipped - len(passed),
            skipped=skipped,
            failed=len(passed),
            failed_in_a_row=failed_in_a_row,
            batch_size=self._pace.adapt(portion.count),
            has_stayed=self._has_stayed(claim, done),
        )
        ended = self._checkpoint(claim, progress)
        return Outcome(end=End.DONE if portion.is_last else End.MORE, claim=ended)

    def _fail(self, claim: Claim, tally: Tally) -> Outcome:
        """Commit what came before the guilty object, and its failure; the cursor stands before it."""
        assert tally.last_failure is not None
        failures.resolve(claim.job)  # the same object may have failed before a crash
        failures.add(claim.job, tally.last_failure.object_pk, tally.last_failure.error, was_passed=False)
        record_passed(claim, self._work, tally.last, tally.passed)
        progress = Progress(
            cursor=tally.last,
            is_done=False,
            processed=len(tally.done) - tally.skipped,
            skipped=tally.skipped,
            failed=len(tally.passed) + 1,
            failed_in_a_row=tally.failed_in_a_row,
            batch_size=claim.batch_size,
            has_stayed=self._has_stayed(claim, tally.done),
        )
        ended = self._checkpoint(claim, progress)
        return Outcome(end=End.FAILED, claim=ended, error=tally.error)

    def _has_stayed(self, claim: Claim, done: Sequence[Portion]) -> bool:
        return claim.has_stayed or bool(self._guarded(lambda: self._work.still_has(done), claim))

    def _checkpoint(self, claim: Claim, progress: Progress) -> Claim:
        try:
            ended = shards.end_batch(claim, progress)
        except DatabaseError as error:
            # The operation may have swallowed an error that spoiled the transaction.
            if is_transient(error):
                raise
            raise OperationRaised(error) from error
        if ended is None:
            raise RolledBack
        return ended


def record_passed(claim: Claim, work: Work, last: list[Any] | None, passed: Sequence[Failure]) -> None:
    """Record the failures that the cursor goes beyond, on its way to `last`."""
    for failure in passed:
        if failure.failed_id is None:
            failures.add(claim.job, failure.object_pk, failure.error, was_passed=True)
        else:
            failures.again(claim.job, failure.failed_id, failure.error)
    work.settle(claim, last, [failure.failed_id for failure in passed if failure.failed_id is not None])


def fail_batch(claim: Claim, error: Exception) -> Outcome:
    """Record a failure that is no single object's, behind the fence; the cursor stays where it is."""
    progress = Progress(
        cursor=claim.cursor, is_done=False, failed=1, batch_size=claim.batch_size, has_stayed=claim.has_stayed
    )
    with engine_transaction(claim.job.db_alias):
        if not shards.begin_batch(claim):
            raise LostShard
        failures.resolve(claim.job)
        failures.add(claim.job, None, error, was_passed=False)
        ended = shards.end_batch(claim, progress)
        if ended is None:
            raise RolledBack
    return Outcome(end=End.FAILED, claim=ended, error=failures.describe(None, error))
