"""The contents and the outcome of a batch, and its policy for failed objects."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from enum import Enum
from typing import Any

from django.db.models import Model, QuerySet

from massmigration import text
from massmigration.conf import settings
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.paging.keyset import Key
from massmigration.recorder import failures
from massmigration.recorder.shards import Checkpoint, Claim, fenced_transaction


class BatchEnd(Enum):
    """The next step of the job after a batch."""

    MORE = "the shard has further rows"
    DONE = "the shard is done"
    FAILED = "an object failed; everything before it is committed"
    STOPPED = "the record is not running this attempt, everything is paused, or the pace has changed"
    LOST = "another worker owns the shard"
    NOT_NOW = "the operation asked to be called later"
    BUSY = "the database refused several times; try later"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a batch, and the claim after it."""

    end: BatchEnd
    claim: Claim
    error: str = ""
    wait: dt.timedelta | None = None
    """The time to wait before the next batch."""

    commit_duration: dt.timedelta | None = None
    """How long the COMMIT took, if it was measured."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The effect of an operation on the rows of a batch."""

    skipped: int = 0
    """The number of rows that others deleted before they were written."""

    changed: int | None = 0
    """The number of rows that were changed, or None if it is unknown."""

    def __add__(self, other: Effect) -> Effect:
        is_known = self.changed is not None and other.changed is not None
        changed = (self.changed or 0) + (other.changed or 0) if is_known else None
        return Effect(skipped=self.skipped + other.skipped, changed=changed)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An object for which the operation raised an exception."""

    object_pk: list[Any] | None
    error: Exception
    failed_id: int | None = None
    """The id of its `FailedObject`, if it is processed again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The objects of one batch, and its place in the shard."""

    last: list[Any] | None
    """The cursor after the batch."""

    count: int
    is_last: bool = False  # is nothing of the shard left after it?

    skipped: int = 0
    """The number of rows that were deleted or changed after they were read and before they were locked."""

    sought: Sequence[Key] = ()
    """The cursors of all rows that were read, in order, if some are skipped."""

    objects: Sequence[Model] = ()
    queryset: QuerySet[Any] | None = None

    keys: Sequence[Key] | None = None
    """The primary keys of the objects, if they are known and needed."""

    span: tuple[list[Any] | None, list[Any] | None] | None = None
    """The range of the objects' keys: the exclusive lower bound and the inclusive upper bound."""

    object_pk: list[Any] | None = None
    """The key of the only object."""

    failed_id: int | None = None
    """The id of its `FailedObject`, if it is processed again."""


LEAST_FOR_RATE = 100
"""The number of a shard's objects from which on the failure rate counts."""


class FailurePolicy:
    """The policy that decides which failed objects a batch tolerates, by the stage's `on_error` and its limits."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self._stage = stage if isinstance(stage, MappedStage) and stage.on_error == "continue" else None
        self._claim = claim
        self._before: int | None = None

    def allows(self, failed: int, consecutive: int, rows: int) -> bool:
        """Return whether the batch continues after its `failed`th failure, the shard's `consecutive`th in a row.

        `rows`: the number of the batch's rows up to this one.
        """
        if self._claim.is_retry:
            return True  # it is already recorded
        return self._stage is not None and not self._limit_reached(self._stage, failed, consecutive, rows)

    def reason(self, failure: Failure, failed: int, consecutive: int, rows: int) -> str:
        """Return one line that explains why the run ended: the failure, and the limit that it reached, if any."""
        is_of_object = failure.object_pk is not None
        reached = self._limit_reached(self._stage, failed, consecutive, rows) if self._stage and is_of_object else ""
        found = failures.describe(failure.object_pk, failure.error)
        return f"{reached}. The last failure: {found}" if reached else found

    def _limit_reached(self, stage: MappedStage, failed: int, consecutive: int, rows: int) -> str:
        limit = stage.max_consecutive_failures
        if limit is not None and consecutive >= limit:
            return f"{text.counted(consecutive, 'consecutive object')} failed (max_consecutive_failures = {limit})"
        return self._too_many(stage, failed) or self._too_large_share(stage, failed, rows)

    def _too_large_share(self, stage: MappedStage, failed: int, rows: int) -> str:
        rate = settings.MAX_FAILURE_RATE if stage.max_failure_rate is None else stage.max_failure_rate
        failed += self._claim.failed
        seen = rows + self._claim.processed + self._claim.failed
        if rate is None or seen < LEAST_FOR_RATE or failed <= rate * seen:
            return ""
        return (
            f"{failed} of the first {seen} objects of shard {self._claim.job.shard} failed, {failed / seen:.0%} "
            f"(max_failure_rate = {rate}), so the operation is probably wrong"
        )

    def _too_many(self, stage: MappedStage, failed: int) -> str:
        if stage.max_failures is None:
            return ""
        if self._before is None:
            self._before = failures.count(self._claim.job)
        is_beyond = self._before + failed > stage.max_failures
        return f"More objects failed than max_failures = {stage.max_failures} allows" if is_beyond else ""


class ObjectResults:
    """The results of a batch that was processed object by object, or set by set, in the order of its keys."""

    def __init__(self, batch: Batch, policy: FailurePolicy, claim: Claim) -> None:
        self.batch = batch
        self.policy = policy
        self.entries: list[tuple[Batch, Failure | None]] = []
        """The processed objects or sets with their failures. The last failure may have stopped the batch."""

        self.succeeded: list[Batch] = []
        self.tolerated: list[Failure] = []
        self.stopped_by: Failure | None = None
        """The failure that was not tolerated, or None. The cursor stays before its object."""

        self.reason = ""
        """The text that explains why the migration fails, or an empty string."""

        self.is_cut_short = False
        """Whether the deadline or a refusal by the database ended the batch early. The next batch has the rest."""

        self.last: list[Any] | None = None
        """The cursor after the last object that it passes, or None if it passes no object."""

        self.rows = 0
        """The number of rows that the cursor passes."""

        self.consecutive_failures = claim.consecutive_failures

    def add(self, obj: Batch, failure: Failure | None = None) -> bool:
        """Record one object. Return whether the batch continues."""
        self.entries.append((obj, failure))
        if failure is None:
            self.succeeded.append(obj)
            self.consecutive_failures = 0
        else:
            self.consecutive_failures += 1
            numbers = len(self.tolerated) + 1, self.consecutive_failures, self.rows + obj.count
            if failure.object_pk is None or not self.policy.allows(*numbers):
                self.stopped_by = failure
                self.reason = self.policy.reason(failure, *numbers)
                return False
            self.tolerated.append(failure)
        self.last = obj.last
        self.rows += obj.count
        return True

    @property
    def is_whole(self) -> bool:
        """Whether every object was processed."""
        return self.stopped_by is None and not self.is_cut_short


def fail_batch(claim: Claim, error: Exception) -> Outcome:
    """Record a failure that belongs to no single object, in a fenced transaction. The cursor does not move."""
    checkpoint = Checkpoint(
        cursor=claim.cursor, is_done=False, failed=1, batch_size=claim.batch_size, still_matched=claim.still_matched
    )
    with fenced_transaction(claim) as fenced:
        failures.resolve(claim.job)
        failures.add(claim.job, None, error, is_behind_cursor=False)
        ended = fenced.checkpoint(checkpoint)
    return Outcome(end=BatchEnd.FAILED, claim=ended, error=failures.describe(None, error))
