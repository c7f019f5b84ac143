"""Throttles, which slow migrations down.

A throttle is called with a `CompletedBatch`, after each batch or before each batch, and returns how long to wait.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from django.db import DatabaseError, InterfaceError
from django.db.models import Model
from django.utils import timezone
from django.utils.connection import ConnectionDoesNotExist

from massmigration import text
from massmigration.dialects import dialect_of
from massmigration.exceptions import CannotMeasure

FIRST_WAIT = dt.timedelta(seconds=1)
"""The longest first wait of a `LoadThrottle`. The worker sleeps, in place of taking another job."""


MEDIAN_OF = 5
"""The number of commits that `CommitLatency` takes the median of."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompletedBatch:
    """The argument of a throttle: a batch that has been committed, or none before the shard's next batch."""

    key: str
    db_alias: str
    rows: int
    """0 before a batch."""

    duration: dt.timedelta
    """0 before a batch."""

    commit_duration: dt.timedelta | None = None
    """How long the COMMIT took; None before a batch, and where batches have no transaction."""

    workers: int
    """Number of the migration's shards on this database that are being processed or throttled, including this one."""

    is_waiting: bool = False
    """Whether this throttle has held the shard back since its last batch. Only known before a batch."""

    find_model: Callable[[], type[Model] | None] = lambda: None

    @property
    def tables(self) -> list[str]:
        """The tables of the migrated model and of the models that it inherits from; empty if there is no queryset."""
        model = self.find_model()
        return [each._meta.db_table for each in (model, *model._meta.get_parent_list())] if model else []


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A wait that a throttle asks for, with its reason."""

    duration: dt.timedelta
    reason: str
    """Shown by commands and pages after the throttle's name, for example "the replica is 12 s behind"."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The request of a throttle to pause the migration, until somebody resumes it."""

    reason: str
    """Recorded in the migration's history."""


Request: TypeAlias = "dt.timedelta | Wait | Pause | None"
"""What a throttle returns. None: no wait."""


class MaxRowsPerSecond:
    """A throttle that limits a migration to `limit` rows a second, all of its workers together.

    It waits between batches. If a single batch is too much at once, set `batch_size`, too.
    """

    def __init__(self, limit: float) -> None:
        if limit <= 0:
            raise ValueError(f"MaxRowsPerSecond({limit!r}): the limit must be greater than 0.")
        self.limit = limit

    def __call__(self, batch: CompletedBatch) -> dt.timedelta | None:
        needed = dt.timedelta(seconds=batch.rows * batch.workers / self.limit)
        return max(needed - batch.duration, dt.timedelta(0))


class OnlyBetween:
    """A throttle that starts batches only between two times of the day, such as `OnlyBetween("22:00", "06:00")`.

    `tz`: the time zone of both times (default: `TIME_ZONE` of the settings). A batch that runs at the end of the
    period is completed.
    """

    before_each_batch = True

    def __init__(self, start: str | dt.time, end: str | dt.time, tz: dt.tzinfo | None = None) -> None:
        self.start, self.end = (_time_of(given, start, end) for given in (start, end))
        if self.start == self.end:
            raise ValueError(f"OnlyBetween({start!r}, {end!r}): the two times must differ.")
        self.tz = tz

    def __call__(self, batch: CompletedBatch) -> Wait | None:
        tz = self.tz or timezone.get_default_timezone()
        now = dt.datetime.now(tz)
        if self._is_within(now.time()):
            return None
        opening = dt.datetime.combine(now.date(), self.start, tz)
        if opening.timestamp() <= now.timestamp():
            opening = dt.datetime.combine(now.date() + dt.timedelta(days=1), self.start, tz)
        # By timestamps, because a day with a change of the clock does not have 24 hours.
        left = dt.timedelta(seconds=opening.timestamp() - now.timestamp())
        return Wait(duration=left, reason=f"it is not between {self.start:%H:%M} and {self.end:%H:%M}")

    def _is_within(self, now: dt.time) -> bool:
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end


def _time_of(given: str | dt.time, start: object, end: object) -> dt.time:
    try:
        found = dt.time.fromisoformat(given) if isinstance(given, str) else given
    except ValueError:
        found = None
    if not isinstance(found, dt.time) or found.tzinfo is not None:
        raise ValueError(f"OnlyBetween({start!r}, {end!r}): {given!r} is not a time such as '22:00'.")
    return found


_T = TypeVar("_T", dt.timedelta, float, int)


class LoadThrottle(Generic[_T]):
    """Base class of throttles that start no batch while a measurement of the server is above `limit`.

    Once a shard has waited, it continues when the measurement is at most `resume_at` (default: `limit`). If the
    measurement fails, the shard waits, too. Where there is nothing to measure, the throttle does not apply.

    `check_every`: the time between two measurements while a shard waits. The first wait is at most a second.
    """

    before_each_batch = True

    kind: ClassVar[type | tuple[type, ...]] = (int, float)
    """The types of the limits."""

    def __init__(
        self, limit: _T, *, resume_at: _T | None = None, check_every: dt.timedelta = dt.timedelta(seconds=5)
    ) -> None:
        self.limit: _T = limit
        self.resume_at: _T = limit if resume_at is None else resume_at
        self.check_every = check_every
        self._check("limit", limit)
        self._check("resume_at", self.resume_at)
        name = type(self).__name__
        if self.resume_at > limit:
            raise ValueError(
                f"{name}: resume_at is {_shown(self.resume_at)}; it must be at most the limit, {_shown(limit)}."
            )
        given: object = check_every
        if not isinstance(given, dt.timedelta) or given <= dt.timedelta(0):
            raise ValueError(f"{name}: check_every is {given!r}; it must be a timedelta greater than 0.")

    def _check(self, name: str, value: Any) -> None:
        """Raise `ValueError` unless the value is a limit."""
        is_limit = isinstance(value, self.kind) and not isinstance(value, bool)
        if not is_limit or value < (dt.timedelta(0) if self.kind is dt.timedelta else 0):
            allowed = "a timedelta" if self.kind is dt.timedelta else "a number"
            raise ValueError(f"{type(self).__name__}: {name} is {value!r}; it must be {allowed}, not negative.")

    def measure(self, batch: CompletedBatch) -> _T | None:
        """Return the measurement; None if this database has nothing to measure. Raise `CannotMeasure` otherwise."""
        raise NotImplementedError

    def describe(self, found: _T) -> str:
        """Return what was measured, in a few words that follow the throttle's name."""
        raise NotImplementedError

    def __call__(self, batch: CompletedBatch) -> Wait | Pause | None:
        try:
            found = self.measure(batch)
        except (CannotMeasure, DatabaseError, InterfaceError, OSError) as error:
            return Wait(duration=self.check_every, reason=f"the server cannot be measured: {text.line(error)}")
        return None if found is None else self.decide(found, batch)

    def decide(self, found: _T, batch: CompletedBatch) -> Wait | Pause | None:
        """Return what follows from a measurement."""
        limit = self.resume_at if batch.is_waiting else self.limit
        if found <= limit:
            return None
        duration = self.check_every if batch.is_waiting else min(self.check_every, FIRST_WAIT)
        rule = "the limit is" if limit == self.limit else "the migration continues at"
        return Wait(duration=duration, reason=f"{self.describe(found)}; {rule} {_shown(limit)}")


def _shown(value: Any) -> str:
    if isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
        return f"{seconds:.3g} s" if seconds < 10 else text.duration(seconds)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class MaxReplicaLag(LoadThrottle[dt.timedelta]):
    """A throttle that starts no batch while a replica is more than `limit` behind.

    `aliases`: the databases, in `DATABASES`, that are replicas. They are asked themselves. Without them, the migrated
    database is asked about the replicas that are connected to it; only PostgreSQL knows. A replica that is not
    connected, or does not replicate, counts as one that cannot be measured.
    """

    kind = dt.timedelta

    def __init__(self, limit: dt.timedelta, *, aliases: Sequence[str] = (), **options: Any) -> None:
        super().__init__(limit, **options)
        if isinstance(aliases, str):
            raise ValueError(f"MaxReplicaLag: aliases is {aliases!r}; it must be a list.")
        self.aliases = tuple(aliases)

    def measure(self, batch: CompletedBatch) -> dt.timedelta | None:
        if not self.aliases:
            return dialect_of(batch.db_alias).lag_of_replicas()
        return max(map(self._lag_of, self.aliases))

    def _lag_of(self, alias: str) -> dt.timedelta:
        try:
            return dialect_of(alias).replication_lag()
        except ConnectionDoesNotExist as error:
            raise CannotMeasure(f"there is no database {alias!r} in DATABASES") from error

    def describe(self, found: dt.timedelta) -> str:
        return f"a replica is {_shown(found)} behind"


class MaxThreadsRunning(LoadThrottle[int]):
    """A throttle that starts no batch while more than `limit` sessions of the server execute a statement.

    On MySQL and MariaDB this is the status variable `Threads_running`, on PostgreSQL the active sessions of clients.
    `pause_at`: with more than so many sessions, the migration is paused.
    """

    def __init__(self, limit: int, *, pause_at: int | None = None, **options: Any) -> None:
        super().__init__(limit, **options)
        if pause_at is not None and pause_at < limit:
            raise ValueError(f"MaxThreadsRunning: pause_at is {pause_at!r}; it must be at least the limit, {limit!r}.")
        self.pause_at = pause_at

    def measure(self, batch: CompletedBatch) -> int | None:
        return dialect_of(batch.db_alias).running_sessions()

    def describe(self, found: int) -> str:
        return f"{text.counted(found, 'session')} of the server {'executes' if found == 1 else 'execute'} statements"

    def decide(self, found: int, batch: CompletedBatch) -> Wait | Pause | None:
        if self.pause_at is not None and found > self.pause_at:
            return Pause(reason=f"{self.describe(found)}; the limit for a pause is {self.pause_at}")
        return super().decide(found, batch)


class LongTransactions(LoadThrottle[dt.timedelta]):
    """A throttle that starts no batch while a transaction of another session has been open for longer than `limit`.

    Such a transaction keeps the server from removing the old versions of rows, of which a migration makes many.
    """

    kind = dt.timedelta

    def measure(self, batch: CompletedBatch) -> dt.timedelta | None:
        return dialect_of(batch.db_alias).oldest_transaction()

    def describe(self, found: dt.timedelta) -> str:
        return f"a transaction has been open for {_shown(found)}"


class LockWaiters(LoadThrottle[int]):
    """A throttle that starts no batch while more than `limit` sessions wait for locks of the migrated table.

    Sessions of this migration's other workers count, too.
    """

    def __init__(self, limit: int = 0, **options: Any) -> None:
        super().__init__(limit, **options)

    def measure(self, batch: CompletedBatch) -> int | None:
        return dialect_of(batch.db_alias).lock_waiters(batch.tables)

    def describe(self, found: int) -> str:
        return f"{text.counted(found, 'session')} {'waits' if found == 1 else 'wait'} for locks of the table"


class AutovacuumRunning(LoadThrottle[int]):
    """A throttle that starts no batch while PostgreSQL's autovacuum works on the migrated table.

    `only_wraparound`: wait only for an autovacuum that prevents a wraparound of transaction ids. Such an autovacuum
    is not canceled by locks that conflict with it.
    """

    def __init__(self, *, only_wraparound: bool = False, check_every: dt.timedelta = dt.timedelta(seconds=5)) -> None:
        super().__init__(0, check_every=check_every)
        self.only_wraparound = only_wraparound

    def measure(self, batch: CompletedBatch) -> int | None:
        found = dialect_of(batch.db_alias).autovacuums(batch.tables)
        if found is None:
            return None
        return sum(is_wraparound or not self.only_wraparound for is_wraparound in found)

    def decide(self, found: int, batch: CompletedBatch) -> Wait | Pause | None:
        which = " to prevent a wraparound" if self.only_wraparound else ""
        return Wait(duration=self.check_every, reason=f"autovacuum works on the table{which}") if found else None


class DeadRows(LoadThrottle[float]):
    """A throttle that starts no batch while more than `limit` of the table's rows are dead, for example 0.2.

    Dead rows are the versions that updates and deletes leave until PostgreSQL vacuums the table. Its statistics
    count them, a second late or so.
    """

    def measure(self, batch: CompletedBatch) -> float | None:
        return dialect_of(batch.db_alias).share_of_dead_rows(batch.tables)

    def describe(self, found: float) -> str:
        return f"{found:.1%} of the table's rows are dead"


class CommitLatency:
    """A throttle that slows a migration down while its commits take longer than `limit`.

    It is called after each batch. While the median of this process' last five commits is above the limit, it asks for
    a wait of `wait`, so that only a few batches tell whether the server has recovered.
    """

    def __init__(self, limit: dt.timedelta, *, wait: dt.timedelta = dt.timedelta(seconds=5)) -> None:
        for name, value in {"limit": limit, "wait": wait}.items():
            given: object = value
            if not isinstance(given, dt.timedelta) or given <= dt.timedelta(0):
                raise ValueError(f"CommitLatency: {name} is {given!r}; it must be a timedelta greater than 0.")
        self.limit = limit
        self.wait = wait
        self._commits: defaultdict[tuple[str, str], deque[dt.timedelta]]
        self._commits = defaultdict(lambda: deque(maxlen=MEDIAN_OF))

    def __call__(self, batch: CompletedBatch) -> Wait | None:
        commits = self._commits[batch.key, batch.db_alias]
        if batch.commit_duration is not None:
            commits.append(batch.commit_duration)
        median = sorted(commits)[len(commits) // 2] if len(commits) == MEDIAN_OF else dt.timedelta(0)
        if median <= self.limit:
            return None
        return Wait(duration=self.wait, reason=f"a commit takes {_shown(median)}; the limit is {_shown(self.limit)}")


class DiskSpace(LoadThrottle[float]):
    """A throttle that starts no batch while more than `limit` of a disk is used, for example 0.9.

    `path`: a folder on this disk. The worker must see the disk: for a server on another machine, write a throttle
    that asks its monitoring.
    """

    def __init__(self, path: str | Path, limit: float, **options: Any) -> None:
        super().__init__(limit, **options)
        self.path = Path(path)

    def measure(self, batch: CompletedBatch) -> float:
        usage = shutil.disk_usage(self.path)
        return usage.used / (usage.used + usage.free)

    def describe(self, found: float) -> str:
        return f"{found:.1%} of the disk of {self.path} is used"
