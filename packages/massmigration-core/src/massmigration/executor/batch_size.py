"""The size and the deadline of batches, adapted to the time that they take, and pauses for SQLite's other writers."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import NamedTuple

from massmigration.conf import settings
from massmigration.definitions.stages import MappedStage
from massmigration.dialects import dialect_of

FIRST_SET_SIZE = 10
"""Rows in the first batch of a set-based operation. It cannot be ended early, and its cost per row is unknown."""

GROWTH = 4
"""The maximum factor by which the size changes from one batch to the next."""

CAREFUL_GROWTH = 2
"""The maximum growth factor if more than half of the target duration does not depend on the number of rows."""

MAX_FACTOR = 2
"""The rows of a batch with a large fixed cost may take this many times the target duration."""

TELLING_RATIO = 1.5
"""The minimum ratio of the sizes of two batches from which the fixed cost is calculated."""

LEAST_DURATION = 0.025
"""The shortest target duration, in seconds, to which adaptive pace reduces a longer one."""

SHORTEST = 1e-6
"""The minimum duration of a batch in seconds, because two readings of the clock can be equal."""


class Deadline(NamedTuple):
    """The time at which a batch must end. Compare `deadline.clock() >= deadline.at` for each object, to save a call."""

    clock: Callable[[], float]
    at: float


def max_size_of(stage: MappedStage) -> int:
    """Return the maximum number of rows in a batch of the stage."""
    default: int = settings.MAX_SET_SIZE if stage.operation_batch else settings.MAX_BATCH_SIZE
    return stage.max_batch_size or default


class AdaptiveBatchSize:
    """The size of a shard's next batch, and the time that it may take.

    The model is that a batch of n rows takes `fixed + n * cost` seconds. The size is chosen so that the batch takes
    `duration`, by default `MASSMIGRATION_BATCH_DURATION`. If the fixed part takes more than half of that, the rows may
    take as long as the fixed part, up to `MAX_FACTOR` times the duration.
    """

    def __init__(
        self,
        db_alias: str,
        *,
        size: int,
        max_size: int,
        fixed_size: int | None,
        first_size: int | None = None,
        is_set: bool = False,
        duration: dt.timedelta | None = None,
        max_growth: float | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.clock = clock or time.monotonic
        self._dialect = dialect_of(db_alias)
        self._fixed_size = fixed_size
        self._target = duration
        self._max_growth = max_growth or GROWTH
        self._max_size = min(max_size, self._dialect.max_batch_size or max_size)
        if fixed_size is not None:
            self._max_size = first_size = fixed_size
        elif first_size is None:
            first_size = min(settings.BATCH_SIZE, FIRST_SET_SIZE) if is_set else settings.BATCH_SIZE
        self.size: int = min(size or first_size, self._max_size)
        self._started = self._read = self._last_gap = self.clock()
        self.deadline = Deadline(self.clock, self._started)
        """The time at which the batch must stop processing rows."""
        self._is_under_way = False
        self._share = 1.0
        self._last: tuple[int, float] | None = None
        """Rows and seconds of the last batch with a clearly different size than the batch before it."""
        self._fixed = 0.0
        """The fixed part of a batch's duration, in seconds."""
        self._least = float("inf")

    def cap(self, rows: int) -> None:
        """Limit the next batch to this number of rows, but to no fewer than one."""
        self.size = max(min(self.size, rows), 1)

    def take_share(self, share: float) -> None:
        """Let the next batches take only this share of their target duration."""
        if share < self._share:
            self.cap(int(self.size * share / self._share))
        self._share = share

    def start(self) -> None:
        """Record the start of a batch."""
        self._started = self._read = self.clock()
        self._is_under_way = True

    def has_read(self) -> None:
        """Record that the batch has read its rows, and set the deadline of its operation."""
        self._read = self.clock()
        self.deadline = Deadline(self.clock, self._read + self._time_for_rows(self._read - self._started))

    def is_over(self) -> bool:
        """Return whether the batch must end with the rows that are already processed."""
        return self.clock() >= self.deadline.at

    def halve(self) -> None:
        """Halve the size for the next attempt, if the database refused a batch that had started."""
        if self._is_under_way:
            self.size = max(self.size // 2, 1)
        self._is_under_way = False

    def shrink(self) -> None:
        """Halve the maximum size, because the database does not accept a batch as large as the last one."""
        self._max_size = self.size = max(self.size // 2, 1)
        if self._fixed_size is not None:
            self._fixed_size = self.size
        self._is_under_way = False

    def adapt(self, count: int, *, is_early: bool = False, is_last: bool = False) -> int:
        """Return the size of the next batch, after a batch of `count` rows.

        `is_early`: the batch reached its deadline before its last row. `is_last`: there were no more rows.
        """
        elapsed = max(self.clock() - self._started, SHORTEST)
        self._is_under_way = False
        self._least = min(self._least, elapsed)
        if is_early:
            self._last, self._fixed = None, min(self._read - self._started, self._least)
            self.size = self._resized(min(count, self.size), elapsed)
        elif count >= self.size or (count and not is_last):
            lowest = self._lowest(elapsed)
            self._learn(count, elapsed)
            fitting = max(self._resized(self.size, elapsed), lowest)
            # A size that the migration sets is reduced only after a deadline or a refusal by the database.
            self.size = fitting if self._fixed_size is None else min(max(fitting, self.size * 2), self._fixed_size)
        return self.size

    def _lowest(self, elapsed: float) -> int:
        """Return the minimum of the next size. One batch that takes a whole job does not show that fewer rows help."""
        is_alone = self._last is None and elapsed >= settings.JOB_DURATION.total_seconds()
        return min(self.size, settings.BATCH_SIZE) if is_alone else 1

    def _learn(self, count: int, elapsed: float) -> None:
        """Calculate the fixed part from this batch and the last batch with a clearly different size."""
        if self._last is None:
            self._last = (count, elapsed)
        (less, sooner), (more, later) = sorted([self._last, (count, elapsed)])
        if more >= TELLING_RATIO * less:
            cost = max(later - sooner, 0) / (more - less)
            self._fixed = max(sooner - less * cost, 0)
            self._last = (count, elapsed)
        self._fixed = min(self._fixed, self._least)

    def _resized(self, size: int, elapsed: float) -> int:
        growth = min(GROWTH if self._fixed <= self._duration() / 2 else CAREFUL_GROWTH, self._max_growth)
        factor = self._time_for_rows(self._fixed) / max(elapsed - self._fixed, SHORTEST)
        # A small size must be able to grow, however slowly.
        most = max(int(size * growth), size + 1)
        return min(max(int(size * max(factor, 1 / GROWTH)), 1), most, self._max_size)

    def _time_for_rows(self, fixed: float) -> float:
        """Return how many seconds a batch may spend on its rows, in addition to the fixed part."""
        duration = self._duration()
        return max(duration - fixed, min(fixed, MAX_FACTOR * duration))

    def _duration(self) -> float:
        duration: dt.timedelta = self._target or settings.BATCH_DURATION
        seconds = min(duration, self._dialect.max_batch_duration or duration).total_seconds()
        return max(seconds * self._share, min(seconds, LEAST_DURATION))

    def yield_write_lock(self) -> None:
        """Let other writers take the write lock between two batches, if the database needs it."""
        if self._dialect.yield_write_lock(self.clock() - self._last_gap):
            self._last_gap = self.clock()
