"""A batch where there are no savepoints: on an error, once more with a transaction for each object."""

from __future__ import annotations

from massmigration.definitions.stages import OnceStage
from massmigration.executor.batch import AtomicBatch, Tally
from massmigration.executor.outcome import End, Failure, OperationRaised, Outcome
from massmigration.executor.tolerance import Tolerance
from massmigration.recorder.shards import Claim


class SinglyBatch(AtomicBatch):
    """Runs batches of a stage on a database of documents.

    A page that is read within a transaction is locked as a whole, with the gaps between its rows: the next rows are
    looked for before it, and read again by their keys within it.
    """

    def _at_once(self, claim: Claim) -> Outcome:
        limit = self._limit or self._pace.size
        self._guarded(lambda: self._work.look_ahead(claim, limit), claim)
        return super()._at_once(claim)

    def _by_object(self, claim: Claim, raised: OperationRaised) -> Outcome:
        if isinstance(self._stage, OnceStage):
            raise raised
        outcome = Outcome(end=End.MORE, claim=claim)
        for _ in range(self._pace.size):
            outcome = self._one(outcome.claim)
            if outcome.end is not End.MORE:
                break
        return outcome

    def _one(self, claim: Claim) -> Outcome:
        self._limit = 1
        try:
            return self._at_once(claim)
        except OperationRaised as again:
            return self._past(claim, again)
        finally:
            self._limit = None

    def _past(self, claim: Claim, raised: OperationRaised) -> Outcome:
        """Record what the operation raised for the next object, and go beyond it where that is borne."""
        tolerance = Tolerance(self._stage, claim)
        in_a_row = claim.failed_in_a_row + 1
        with self._transaction(claim):
            portion = self._begin(claim)
            unit = next(iter(self._guarded(lambda: list(self._work.units(portion)), claim)), None)
            if unit is None:  # it has gone meanwhile
                return self._end(claim, portion, [portion], skipped=portion.skipped)
            failure = Failure(object_pk=unit.object_pk, error=raised.error, failed_id=unit.failed_id)
            if tolerance.bears(1, in_a_row):
                skipped = portion.skipped
                return self._end(claim, portion, [], skipped=skipped, passed=[failure], failed_in_a_row=in_a_row)
            error = tolerance.explain(failure, 1, in_a_row)
            return self._fail(
                claim, Tally(last=claim.cursor, last_failure=failure, error=error, failed_in_a_row=in_a_row)
            )
