"""Decides whether a shard goes on after an object that failed."""

from __future__ import annotations

from massmigration.definitions.stages import MappedStage, Stage
from massmigration.recorder import failures
from massmigration.recorder.shards import Claim


class Tolerance:
    """How many failures one batch bears, by the stage's `on_error` and `max_failures`."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self._stage = stage
        self._claim = claim
        self._before: int | None = None

    def bears(self, failed: int) -> bool:
        """Whether the batch goes on after its `failed`th failure."""
        if self._claim.is_redo:
            return True  # it is on record already
        if not isinstance(self._stage, MappedStage) or self._stage.on_error != "continue":
            return False
        if self._stage.max_failures is None:
            return True
        if self._before is None:
            self._before = failures.count(self._claim.job)
        return self._before + failed <= self._stage.max_failures
