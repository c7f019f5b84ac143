"""Adaptive pace: a run gives way to the site while commits are slow, sessions wait for its locks, or replicas lag.

The share of the time in which a worker runs batches rises by a constant a second while nothing is wrong, and is halved
when something is (additive increase, multiplicative decrease). The share also shortens the batches. If it is as low as
possible and something is still wrong, fewer workers run at once.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

from django.db import DatabaseError, InterfaceError

from massmigration.conf import settings
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.dialects import dialect_of
from massmigration.exceptions import CannotMeasure
from massmigration.pace import Pace
from massmigration.recorder import pace as recorder_pace
from massmigration.recorder.shards import Claim

MIN_SHARE = 1 / 16
"""The smallest share of the time in which a worker runs batches."""

RISE = 0.1
"""By how much the share rises in a second in which nothing is wrong."""

HOLD = 0.25
"""Seconds between two decreases. The effect of the first one must be visible before the second one."""

LOOK_EVERY = 0.25
"""Seconds between two counts of the sessions that wait for locks of a batch."""

LAG_EVERY = 5.0
"""Seconds between two measurements of the lag of replicas."""

WORKERS_EVERY = 5.0
"""Seconds between two changes of the number of workers."""

LONGEST_PAUSE = 1.0
"""The maximum pause between two batches, in seconds."""

MEDIAN_OF = 5
"""The number of commits of which the median counts."""

SLACK = 0.005
"""Seconds by which commits may always be slower than the fastest ones: the clock and the scheduler are not exact."""

MAX_LAG = dt.timedelta(seconds=5)
"""The lag of a replica above which something is wrong."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How much a run gives way."""

    max_share: float
    """The share of the time in which a worker runs batches while nothing is wrong."""

    max_duration: dt.timedelta | None
    """The maximum target duration of a batch."""

    tolerance: float
    """How many times longer than the fastest commits of batches of this size commits may take."""

    max_workers: int | None
    """The maximum number of workers at the same time."""


GENTLE = Level(max_share=0.25, max_duration=dt.timedelta(milliseconds=100), tolerance=1.5, max_workers=1)
STEADY = Level(max_share=1.0, max_duration=None, tolerance=2.0, max_workers=None)
_LEVELS: dict[str, Level | None] = {"gentle": GENTLE, "steady": STEADY, "full": None}


def level_of(stage: Stage, pace: Pace) -> Level | None:
    """Return the level of a run: the operator's, the stage's, or that of the settings. None: it does not give way."""
    own = stage.pace if isinstance(stage, MappedStage) else None
    return _LEVELS.get(str(pace.level or own or settings.PACE))


def max_workers_of(stage: Stage, pace: Pace) -> int | None:
    """Return how many workers the level of a run allows at the same time; None: any number."""
    level = level_of(stage, pace)
    return level.max_workers if level else None


class LoadController:
    """The share of the time in which the workers of this process run batches of one migration."""

    def __init__(self, level: Level, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.level = level
        self.share = level.max_share
        self._clock = clock
        self._lock = threading.Lock()
        self._commits: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=MEDIAN_OF))
        self._fastest: dict[int, float] = {}
        self._risen_at = self._fallen_at = clock()
        self._looked_at = self._lag_at = self._changed_at = float("-inf")
        self._has_lag = True
        self._blocked = 0
        self._low_since: float | None = None

    def look(self, db_alias: str) -> None:
        """Count the sessions that wait for locks of this batch, in its transaction and before its commit."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            self._blocked = dialect_of(db_alias).blocked_sessions() or 0

    def note(self, claim: Claim, rows: int, commit_duration: dt.timedelta | None) -> None:
        """Adapt the share after a batch, and the number of workers if that is not enough."""
        with self._lock:
            is_wrong = self._is_slow(rows, commit_duration)
            is_wrong = self._blocked > 0 or is_wrong
            self._blocked = 0
            is_wrong = self._lags(claim.job.db_alias) or is_wrong
            self._adapt(is_wrong=is_wrong)
            change = self._change_of_workers(is_wrong=is_wrong)
        if change:
            recorder_pace.steer_workers(claim.job, change)

    def pause_after(self, duration: dt.timedelta) -> dt.timedelta:
        """Return the pause after a batch of this duration."""
        seconds = duration.total_seconds() * (1 / self.share - 1)
        return dt.timedelta(seconds=min(seconds, LONGEST_PAUSE))

    def _adapt(self, *, is_wrong: bool) -> None:
        now = self._clock()
        if is_wrong:
            self._risen_at = now
            if now - self._fallen_at >= HOLD:
                self._fallen_at = now
                self.share = max(self.share / 2, MIN_SHARE)
            return
        self.share = min(self.share + RISE * (now - self._risen_at), self.level.max_share)
        self._risen_at = now

    def _is_slow(self, rows: int, commit_duration: dt.timedelta | None) -> bool:
        """Return whether the median of the last commits of such batches is much longer than the fastest median."""
        if commit_duration is None or not rows:
            return False
        size = rows.bit_length()  # a commit of more rows takes longer
        commits = self._commits[size]
        commits.append(commit_duration.total_seconds())
        if len(commits) < MEDIAN_OF:
            return False
        median = sorted(commits)[MEDIAN_OF // 2]
        self._fastest[size] = min(self._fastest.get(size, median), median)
        return median > self._fastest[size] * self.level.tolerance + SLACK

    def _lags(self, db_alias: str) -> bool:
        now = self._clock()
        if not self._has_lag or now - self._lag_at < LAG_EVERY:
            return False
        self._lag_at = now
        try:
            found = dialect_of(db_alias).lag_of_replicas()
        except (CannotMeasure, DatabaseError, InterfaceError):
            found = None
        self._has_lag = found is not None
        return found is not None and found > MAX_LAG

    def _change_of_workers(self, *, is_wrong: bool) -> str:
        """Return `fewer`, `more` or an empty string."""
        now = self._clock()
        if self._low_since is None or self.share > MIN_SHARE:
            self._low_since = now if self.share <= MIN_SHARE else None
        if now - self._changed_at < WORKERS_EVERY:
            return ""
        is_low = self._low_since is not None and now - self._low_since >= HOLD
        change = "fewer" if is_wrong and is_low else "more" if self.share >= self.level.max_share else ""
        if change:
            self._changed_at = now
        return change


_controllers: dict[tuple[str, str], LoadController] = {}
_lock = threading.Lock()


def controller_of(claim: Claim, stage: Stage) -> LoadController | None:
    """Return the controller of this process for a migration on a database, or None if the run does not give way."""
    level = level_of(stage, claim.pace)
    if level is None or not isinstance(stage, MappedStage):
        return None
    with _lock:
        name = (claim.job.attempt_id, claim.job.db_alias)
        found = _controllers.get(name)
        if found is None or found.level is not level:
            if len(_controllers) > 100:  # of attempts that have ended
                _controllers.clear()
            found = _controllers[name] = LoadController(level)
        return found
