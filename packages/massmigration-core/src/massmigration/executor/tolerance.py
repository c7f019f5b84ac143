"""Decides whether a shard goes on after an object that failed."""

from __future__ import annotations

from massmigration.definitions.stages import MappedStage, Stage
from massmigration.executor.outcome import Failure
from massmigration.recorder import failures
from massmigration.recorder.shards import Claim


class Tolerance:
    """How many failures one batch bears, by the stage's `on_error` and its limits."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self._stage = stage if isinstance(stage, MappedStage) and stage.on_error == "continue" else None
        self._claim = claim
        self._before: int | None = None

    def bears(self, failed: int, in_a_row: int) -> bool:
        """Whether the batch goes on after its `failed`th failure, the shard's `in_a_row`th without a success."""
        if self._claim.is_redo:
            return True  # it is on record already
        return self._stage is not None and not self._limit_reached(self._stage, failed, in_a_row)

    def explain(self, failure: Failure, failed: int, in_a_row: int) -> str:
        """One line that says what ended the run: the failure, and the limit that it reached, if any."""
        reached = self._limit_reached(self._stage, failed, in_a_row) if self._stage else ""
        found = failures.describe(failure.object_pk, failure.error)
        return f"{reached}. The last: {found}" if reached else found

    def _limit_reached(self, stage: MappedStage, failed: int, in_a_row: int) -> str:
        limit = stage.max_consecutive_failures
        if limit is not None and in_a_row >= limit:
            return f"{in_a_row} objects failed one after the other (max_consecutive_failures = {limit})"
        if stage.max_failures is None:
            return ""
        if self._before is None:
            self._before = failures.count(self._claim.job)
        is_beyond = self._before + failed > stage.max_failures
        return f"More objects failed than max_failures = {stage.max_failures} allows" if is_beyond else ""
