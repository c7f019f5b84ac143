"""Calls of a stage's throttles, the waits that they return, and the limits on batch size that follow."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import Model
from django.utils.module_loading import import_string

from massmigration import text
from massmigration.conf import settings
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.dialects import dialect_of
from massmigration.exceptions import InvalidTransition
from massmigration.executor.batch_size import AdaptiveBatchSize
from massmigration.pace import Pace
from massmigration.recorder import records, waits
from massmigration.recorder.shards import Claim
from massmigration.states import Status
from massmigration.throttling import CompletedBatch, MaxRowsPerSecond, OnlyBetween, Pause, Request, Wait

logger = logging.getLogger(__name__)

SHORT = dt.timedelta(seconds=1)
"""The longest wait for which a worker sleeps. Another job would cost as much time."""

LONGEST = dt.timedelta(days=365)
"""The maximum of a wait."""

MAX_LABEL = 255
"""The maximum length of a throttle's name and reason, in the shard's row."""

NO_TIME = waits.NO_TIME
_MOMENT = 0.002
"""Additional seconds of a wait: SQLite's clock has a resolution of milliseconds."""

Given = str | Callable[[CompletedBatch], Request]


class Throttle:
    """The throttles of a stage and of the settings, for one claim."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self._job = claim.job
        self._stage = stage
        self._is_once = not isinstance(stage, MappedStage)
        self._is_first = not claim.has_waited
        self._held_by = claim.throttled_by if claim.has_waited else ""
        """The throttle, with its reason, whose wait has just ended; empty after a batch."""

        found = [(name_of(given), _found(given)) for given in _given(stage, claim.pace)] + _of_pace(claim.pace)
        self._limits = [(throttle, name) for name, throttle in found if isinstance(throttle, MaxRowsPerSecond)]
        # Every batch reads the record's row, and in a document database other workers cannot write it meanwhile.
        self._takes_slots = not dialect_of(claim.job.db_alias).reads_block_writes
        called = [(name, throttle) for name, throttle in found if not self._gives_slots(throttle)]
        self._called_before = [pair for pair in called if _is_called_before(pair[1])]
        self._called_after = [pair for pair in called if not _is_called_before(pair[1])]

    def before(self, claim: Claim, pace: AdaptiveBatchSize, stop_requested: Callable[[], bool]) -> dt.timedelta:
        """Wait until the claim's next batch may begin, and cap it.

        Return the rest of the wait if it is too long to sleep or a shutdown interrupted it. In that case the batch
        must not begin, and the wait is saved in the shard's row. Otherwise return zero.
        """
        left = self._ask_first(claim, stop_requested) or self._ask_before(claim, stop_requested)
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

    def after(
        self, claim: Claim, rows: int, duration: dt.timedelta, commit_duration: dt.timedelta | None
    ) -> dt.timedelta:
        """Return how long to wait after a batch of `rows`. The wait is saved in the shard's row."""
        if not self._called_after:
            return NO_TIME
        return self._kept(claim, self._ask(self._called_after, rows, duration, commit_duration))

    def _ask_first(self, claim: Claim, stop_requested: Callable[[], bool]) -> dt.timedelta:
        """Call the throttles before the first batch of a claim, unless it has already waited.

        The wait after the last batch of a completed shard is observed by the worker that claims another shard.
        """
        if not self._is_first or not self._called_after:
            return NO_TIME
        self._is_first = False
        others = waits.active_workers(self._job)
        owed = _Answer(wait=others.owed, by=others.owed_to)
        wait = self._kept(claim, max(self._ask(self._called_after), owed, key=_wait_of))
        return wait_for(wait, stop_requested) if wait <= SHORT else wait

    def _ask_before(self, claim: Claim, stop_requested: Callable[[], bool]) -> dt.timedelta:
        """Call the throttles that are called before each batch, and once more after a short wait.

        Return the rest of the wait. The lease must not expire meanwhile, so the worker sleeps only once.
        """
        if not self._called_before:
            return NO_TIME
        for may_sleep in (True, False):
            answer = self._ask(self._called_before)
            wait = self._kept(claim, answer)
            if not wait:
                break
            self._held_by = answer.by
            if answer.pauses or wait > SHORT or not may_sleep:
                return wait
            left = wait_for(wait, stop_requested)
            if left:
                return left
        self._held_by = ""
        return NO_TIME

    def _kept(self, claim: Claim, answer: _Answer) -> dt.timedelta:
        """Save the wait in the shard's row, and pause the migration if a throttle asks for it. Return the wait."""
        if answer.pauses:
            with contextlib.suppress(InvalidTransition):
                records.move(self._job.db_alias, self._job.key, Status.PAUSED, "pause", actor=f"throttle {answer.by}")
        if answer.wait:
            waits.keep(claim, answer.wait, answer.by)
        return answer.wait

    def _ask(
        self,
        throttles: Sequence[tuple[str, Callable[[CompletedBatch], Any]]],
        rows: int = 0,
        duration: dt.timedelta = NO_TIME,
        commit_duration: dt.timedelta | None = None,
    ) -> _Answer:
        """Return the longest wait, and whose it is. A pause counts as the longest."""
        workers = waits.active_workers(self._job).workers
        answers = []
        for name, throttle in throttles:
            batch = CompletedBatch(
                key=self._job.key,
                db_alias=self._job.db_alias,
                rows=rows,
                duration=duration,
                commit_duration=commit_duration,
                workers=workers,
                is_waiting=self._held_by.split(":")[0] == name,
                find_model=self._model,
            )
            answers.append(_ask(throttle, name, batch))
        return max(answers, key=_wait_of)

    def _model(self) -> type[Model] | None:
        """Return the migrated model, or None for a stage without a queryset."""
        if not isinstance(self._stage, MappedStage):
            return None
        return self._stage.get_queryset(self._job.db_alias).model

    def _gives_slots(self, throttle: Any) -> bool:
        """Return whether the engine spaces batches by the throttle's limit. Other throttles are called."""
        is_plain = isinstance(throttle, MaxRowsPerSecond) and type(throttle).__call__ is MaxRowsPerSecond.__call__
        return is_plain and self._takes_slots


def throttle_of(stage: Stage, claim: Claim) -> Throttle | None:
    """Return the throttles for a claim, or None if there are none."""
    return Throttle(stage, claim) if _given(stage, claim.pace) or _of_pace(claim.pace) else None


def _given(stage: Stage, pace: Pace) -> list[Given]:
    return [*settings.THROTTLE, *stage.throttle] if pace.throttles else []


def _of_pace(pace: Pace) -> list[tuple[str, Any]]:
    """Return the throttles that the pace itself asks for, with the name that operators see."""
    found: list[Any] = [MaxRowsPerSecond(pace.max_rows_per_second)] if pace.max_rows_per_second else []
    found += [OnlyBetween(*pace.window)] if pace.window else []
    return [(f"pace {type(throttle).__name__}", throttle) for throttle in found]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a throttle has asked for."""

    wait: dt.timedelta
    by: str
    """The throttle's name, with its reason after a colon if it gives one."""

    pauses: bool = False


def _wait_of(answer: _Answer) -> tuple[bool, dt.timedelta]:
    return answer.pauses, answer.wait


def _is_called_before(throttle: Any) -> bool:
    return bool(getattr(throttle, "before_each_batch", False))


def name_of(given: Given) -> str:
    """Return the throttle's name for operators: the dotted path, or the name of the function or class."""
    while isinstance(given, functools.partial):
        given = given.func
    name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
    return str(name)[:MAX_LABEL]


def _found(given: Given) -> Any:
    """Return the throttle at a dotted path. If the import fails, return a throttle that raises the error."""
    try:
        return import_string(given) if isinstance(given, str) else given
    except ImportError as error:
        return functools.partial(_raise, error)


def _raise(error: Exception, batch: CompletedBatch) -> None:
    raise error


def _ask(throttle: Callable[[CompletedBatch], Any], name: str, batch: CompletedBatch) -> _Answer:
    """Call a throttle. If it raises, the answer is a wait of `SHORT`, so that an error does not stop the work."""
    try:
        request = throttle(batch)
        if isinstance(request, Pause):
            return _Answer(wait=SHORT, by=_label(name, request.reason), pauses=True)
        reason = request.reason if isinstance(request, Wait) else ""
        wait = request.duration if isinstance(request, Wait) else request or NO_TIME
        if not isinstance(wait, dt.timedelta):
            raise TypeError(f"Throttle {name!r} returned {request!r}; allowed: a timedelta, a Wait, a Pause, or None.")
        return _Answer(wait=min(max(wait, NO_TIME), LONGEST), by=_label(name, reason))
    except Exception as error:
        logger.error("Throttle %r of migration %s raised.", name, batch.key, exc_info=text.logged(error))
        return _Answer(wait=SHORT, by=name)


def _label(name: str, reason: str) -> str:
    return text.clean(f"{name}: {reason}" if reason else name, MAX_LABEL)


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
