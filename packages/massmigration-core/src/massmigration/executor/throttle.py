"""Calls of a stage's throttles, the waits that they return, and the limits on batch size that follow."""

from __future__ import annotations

import datetime as dt
import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from django.utils.module_loading import import_string

from massmigration import text
from massmigration.conf import settings
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.dialects import dialect_of
from massmigration.executor.batch_size import AdaptiveBatchSize
from massmigration.recorder import waits
from massmigration.recorder.shards import Claim
from massmigration.throttling import CompletedBatch, MaxRowsPerSecond

logger = logging.getLogger(__name__)

SHORT = dt.timedelta(seconds=1)
"""The longest wait for which a worker sleeps. Another job would cost as much time."""

LONGEST = dt.timedelta(days=365)
"""The maximum of a wait."""

NO_TIME = waits.NO_TIME
_MOMENT = 0.002
"""Additional seconds of a wait: SQLite's clock has a resolution of milliseconds."""

Given = str | Callable[[CompletedBatch], "dt.timedelta | None"]


class Throttle:
    """The throttles of a stage and of the settings, for one claim. Without throttles it makes no queries."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self._job = claim.job
        self._is_once = not isinstance(stage, MappedStage)
        self._is_first = not claim.has_waited
        found = [(name_of(given), _found(given)) for given in [*settings.THROTTLE, *stage.throttle]]
        self._limits = [(throttle, name) for name, throttle in found if isinstance(throttle, MaxRowsPerSecond)]
        # Every batch reads the record's row, and in a document database other workers cannot write it meanwhile.
        self._takes_slots = not dialect_of(claim.job.db_alias).reads_block_writes
        self._asked = [(name, throttle) for name, throttle in found if not self._gives_slots(throttle)]

    def before(self, claim: Claim, pace: AdaptiveBatchSize, stop_requested: Callable[[], bool]) -> dt.timedelta:
        """Wait until the claim's next batch may begin, and cap it.

        Return the rest of the wait if it is too long to sleep or a shutdown interrupted it. In that case the batch
        must not begin, and the wait is saved in the shard's row. Otherwise return zero.
        """
        left = self._ask_first(claim, stop_requested)
        if left:
            return left
        spacing = min(
            ((limit.limit, name) for limit, name in self._limits if self._gives_slots(limit)),
            key=lambda pair: pair[0],
            default=None,
        )
        for limit, _ in self._limits:
            if not self._gives_slots(limit):
                pace.cap(int(limit.limit * waits.SHARE / waits.active_workers(self._job).workers))
        if spacing is None:
            return NO_TIME
        rows = 1 if self._is_once else pace.size
        slot = waits.take_slot(claim, spacing[0], rows, spacing[1], patience=SHORT)
        pace.cap(slot.rows)
        return wait_for(slot.wait, stop_requested) if slot.is_taken else slot.wait

    def after(self, claim: Claim, rows: int, seconds: float) -> dt.timedelta:
        """Return how long to wait after a batch of `rows` that took `seconds`. The wait is saved in the shard's row."""
        if not self._asked:
            return NO_TIME
        wait, name = self._ask(rows, seconds, waits.active_workers(self._job).workers)
        if wait:
            waits.keep(claim, wait, name)
        return wait

    def _ask_first(self, claim: Claim, stop_requested: Callable[[], bool]) -> dt.timedelta:
        """Call the throttles before the first batch of a claim, unless it has already waited.

        The wait after the last batch of a completed shard is observed by the worker that claims another shard.
        """
        if not self._is_first or not self._asked:
            return NO_TIME
        self._is_first = False
        others = waits.active_workers(self._job)
        wait, name = max(self._ask(0, 0, others.workers), (others.owed, others.owed_to))
        if not wait:
            return NO_TIME
        waits.keep(claim, wait, name)
        return wait_for(wait, stop_requested) if wait <= SHORT else wait

    def _ask(self, rows: int, seconds: float, workers: int) -> tuple[dt.timedelta, str]:
        """Return the longest wait, and the name of its throttle."""
        batch = CompletedBatch(
            key=self._job.key,
            db_alias=self._job.db_alias,
            rows=rows,
            duration=dt.timedelta(seconds=seconds),
            workers=workers,
        )
        return max((_ask(throttle, name, batch), name) for name, throttle in self._asked)

    def _gives_slots(self, throttle: Any) -> bool:
        """Return whether the engine spaces batches by the throttle's limit. Other throttles are called."""
        is_plain = isinstance(throttle, MaxRowsPerSecond) and type(throttle).__call__ is MaxRowsPerSecond.__call__
        return is_plain and self._takes_slots


def name_of(given: Given) -> str:
    """Return the throttle's name for operators: the dotted path, or the name of the function or class."""
    while isinstance(given, functools.partial):
        given = given.func
    name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
    return str(name)[:255]


def _found(given: Given) -> Any:
    """Return the throttle at a dotted path. If the import fails, return a throttle that raises the error."""
    try:
        return import_string(given) if isinstance(given, str) else given
    except ImportError as error:
        return functools.partial(_raise, error)


def _raise(error: Exception, batch: CompletedBatch) -> None:
    raise error


def _ask(throttle: Any, name: str, batch: CompletedBatch) -> dt.timedelta:
    """Return the wait that a throttle asks for, or `SHORT` if it raises, so that an error does not stop the work."""
    try:
        wait = throttle(batch) or NO_TIME
        if not isinstance(wait, dt.timedelta):
            raise TypeError(f"Throttle {name!r} returned {wait!r}; allowed: a timedelta, or None.")
        return min(max(wait, NO_TIME), LONGEST)
    except Exception as error:
        logger.error("Throttle %r of migration %s raised.", name, batch.key, exc_info=text.logged(error))
        return SHORT


def wait_for(duration: dt.timedelta, stop_requested: Callable[[], bool]) -> dt.timedelta:
    """Sleep. Return the rest of the duration if a shutdown interrupts it."""
    if not duration:
        return NO_TIME
    until = time.monotonic() + duration.total_seconds() + _MOMENT
    sleep(duration + dt.timedelta(seconds=_MOMENT), stop_requested)
    return dt.timedelta(seconds=max(until - time.monotonic(), 0))


def sleep(duration: dt.timedelta, stop_requested: Callable[[], bool]) -> None:
    """Sleep until the duration is over or the worker must shut down."""
    until = time.monotonic() + duration.total_seconds()
    while (left := until - time.monotonic()) > 0 and not stop_requested():
        time.sleep(min(left, 0.2))
