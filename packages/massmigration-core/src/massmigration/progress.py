"""The progress of one migration: its rows, its speed, and whether it is stuck; and numbers as plain text."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Sequence
from typing import Any

from django.db.models import Count, Max, Q, Sum
from django.utils import timezone

from massmigration import conf
from massmigration.conf import settings
from massmigration.dialects.times import DatabaseNow
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord, all_paused
from massmigration.pace import NO_PACE, Pace
from massmigration.states import ACTIVE, Status
from massmigration.text import counted, duration, number

WAITING = "Waiting: "
"""Prefix of a recorded error that needs no action, such as a wait for a lock."""

STALL = ("stalled_since", "stalled_tries", "stalled_error")

WINDOW = 10.0
"""Seconds over which the recent speed is measured."""

DAY = dt.timedelta(days=1)

SOON = dt.timedelta(seconds=5)
"""A migration whose next job is overdue by less is not reported as stuck."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a migration on one database at one moment."""

    key: str
    status: Status
    attempt_id: str
    stage: int
    is_planned: bool
    is_managed: bool
    last_error: str
    total: int | None
    """Objects of the current stage, if known."""

    is_total_estimated: bool
    done: int
    """Objects of the current stage that are behind the cursors: processed, skipped or failed."""

    processed: int
    """Objects processed in all stages. A stage that is done once has none."""

    changed: int | None = None
    """Rows changed in all stages; None if not known."""

    failed: int
    """Objects of the current stage that have failed and have not been processed since."""

    is_once: bool
    """Whether the current stage is done once instead of mapped over objects."""

    idle_for: dt.timedelta | None
    """Time since the last checkpoint, if workers hold all remaining shards of the stage; otherwise None."""

    lease_left: dt.timedelta | None
    """Time until the first of their leases expires, if workers hold all remaining shards; otherwise None."""

    stalled_for: dt.timedelta | None = None
    """How long a shard, the plan or the completion check has been failing; None if nothing fails."""

    stalled_since: dt.datetime | None = None
    stalled_tries: int = 0
    """Number of failed rounds; 0 for a wait that needs no action, such as a lock."""

    stalled_error: str = ""
    """The last error; begins with `Waiting:` if it needs no action."""

    throttled_until: dt.datetime | None = None
    """When the first shard may continue, if throttles keep workers from all shards; otherwise None."""

    throttle_left: dt.timedelta | None = None
    """Time until `throttled_until`."""

    throttled_by: str = ""
    """The name of the throttle."""

    waiting: int = 0
    """Shards of the current stage that no worker has processed for a while and that are not throttled."""

    is_all_paused: bool = False
    """Whether everything is paused on the database, so that no batch starts whatever the status is."""

    pace: Pace = NO_PACE
    """What operators have set while it runs."""

    elapsed: dt.timedelta | None = None
    """Time spent queued or running since the first stage was planned, without pauses and without the time between a
    failure and its retry. None unless requested with `with_elapsed`, as `api.status` does."""

    @property
    def is_active(self) -> bool:
        """Whether the migration is queued or running."""
        return self.status in ACTIVE

    @property
    def has_changed_nothing(self) -> bool:
        """Whether it is known that no processed object was changed."""
        return self.processed > 0 and self.changed == 0

    @property
    def stall(self) -> str:
        """For example "no progress since 12:03:10, 2 of 10 rounds: OperationalError: ..."; empty if nothing fails."""
        if self.stalled_for is None:
            return ""
        at = timezone.localtime(dt.datetime.now(dt.timezone.utc) - self.stalled_for)
        since = f"{at:%H:%M:%S}" if self.stalled_for < dt.timedelta(days=1) else f"{at:%Y-%m-%d %H:%M}"
        if self.stalled_error.startswith(WAITING):
            return f"waiting since {since}: {self.stalled_error.removeprefix(WAITING)}"
        rounds = f", {self.stalled_tries} of {conf.settings.MAX_STALLED_TRIES} rounds" if self.stalled_tries else ""
        return f"no progress since {since}{rounds}: {self.stalled_error}"

    @property
    def throttle_ends_at(self) -> dt.datetime | None:
        """`throttled_until` in the current time zone."""
        if self.throttle_left is None:
            return None
        if self.throttled_until is not None and timezone.is_aware(self.throttled_until):
            return timezone.localtime(self.throttled_until)
        return timezone.localtime(dt.datetime.now(dt.timezone.utc) + self.throttle_left)

    @property
    def throttle(self) -> str:
        """For example "throttled until 12:03:10 by MaxRowsPerSecond"; empty unless all shards are throttled."""
        at = self.throttle_ends_at
        if at is None or self.throttle_left is None:
            return ""
        when = f"{at:%H:%M:%S}" if self.throttle_left < DAY else f"{at:%Y-%m-%d %H:%M}"
        return f"throttled until {when} by {self.throttled_by}"

    @property
    def rate(self) -> float | None:
        """Objects per second over `elapsed`; None before the first object is processed."""
        seconds = self.elapsed.total_seconds() if self.elapsed else 0
        return self.processed / seconds if seconds and self.processed else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the stage at the overall rate, or None."""
        if not self.rate or not self.is_active or self.total is None or self.done > self.total:
            return None
        return (self.total - self.done) / self.rate

    @property
    def fraction(self) -> float | None:
        """The completed part of the stage, from 0 to 1, or None. It is 1 only if the migration is applied."""
        if self.status is Status.APPLIED:
            return 1.0
        if self.total is None or not self.is_planned:
            return None
        return min(self.done / self.total, 0.999) if self.total else 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardTotals:
    """The sums over the shards and failed objects of one record."""

    moved: int
    """Objects of the current stage that were processed or skipped."""

    processed: int
    changed: int | None
    is_once: bool
    failed: int
    failed_behind_cursor: int
    """Failed objects of the current stage that are behind the cursors."""

    idle_for: dt.timedelta | None = None
    lease_left: dt.timedelta | None = None
    stalled_since: dt.datetime | None = None
    stalled_tries: int = 0
    stalled_error: str = ""
    throttled_until: dt.datetime | None = None
    throttled_by: str = ""
    waiting: int = 0
    elapsed: dt.timedelta | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A record, its shards and its progress, read at the same moment."""

    record: Any
    """The `MigrationRecord`, with the time of the database as `now`."""

    shards: Sequence[Any]
    """The shards of the current stage, by index."""

    progress: Progress


def read(key: str, db_alias: str, *, with_elapsed: bool = False) -> Progress | None:
    """Return the progress of a migration, or None if it has no record. Takes at most three queries.

    `with_elapsed` also computes `elapsed`, with one more query.
    """
    found = read_snapshot(key, db_alias, "cursor", "lower", with_elapsed=with_elapsed)
    return found.progress if found else None


def read_snapshot(key: str, db_alias: str, *deferred: str, with_elapsed: bool = True) -> Snapshot | None:
    """Return the progress with its record and its shards, which are read without the `deferred` fields."""
    records = MigrationRecord.objects.using(db_alias).filter(key=key)
    record = records.annotate(now=DatabaseNow(), is_all_paused=all_paused(db_alias)).first()
    if record is None:
        return None
    shards = list(ShardRecord.objects.using(db_alias).filter(record_id=key).defer(*deferred))
    current = [shard for shard in shards if shard.stage == record.stage]
    # Failures of earlier attempts count, too.
    failed, behind_cursor = _failures(key, record.stage, db_alias) if current else (0, 0)
    idle_for, lease_left = _waits([shard for shard in current if not shard.is_done], record.now)
    changed: list[Any] = [shard.changed for shard in shards if shard.upper is not None]
    totals = ShardTotals(
        moved=sum(shard.processed + shard.skipped for shard in current),
        processed=sum(shard.processed for shard in shards if shard.upper is not None),
        changed=None if None in changed else sum(changed),
        is_once=bool(current) and all(shard.upper is None for shard in current),
        failed=failed,
        failed_behind_cursor=behind_cursor,
        idle_for=idle_for,
        lease_left=lease_left,
        **_stall_of([shard for shard in current if not shard.is_done]),
        **_throttle([shard for shard in current if not shard.is_done], record.now),
        elapsed=_elapsed(record, db_alias) if with_elapsed and record.started_at else None,
    )
    return Snapshot(record=record, shards=current, progress=progress_of(record, totals))


def progress_of(record: Any, totals: ShardTotals) -> Progress:
    """Return the progress of a record from the sums over its shards."""
    stall = totals if totals.stalled_since else record  # the error of a shard is more specific
    since = stall.stalled_since if record.status in ACTIVE else None
    is_throttled = record.status == Status.RUNNING and totals.throttled_until is not None
    return Progress(
        key=record.key,
        status=Status(record.status),
        attempt_id=str(record.attempt_id),
        stage=record.stage,
        is_planned=record.is_planned,
        is_managed=record.is_managed,
        last_error=record.last_error,
        total=record.total,
        is_total_estimated=record.is_total_estimated,
        done=totals.moved + totals.failed_behind_cursor,
        processed=totals.processed,
        changed=totals.changed,
        failed=totals.failed,
        is_once=totals.is_once,
        idle_for=totals.idle_for,
        lease_left=totals.lease_left,
        stalled_for=record.now - since if since else None,
        stalled_since=since,
        stalled_tries=stall.stalled_tries if since else 0,
        stalled_error=stall.stalled_error if since else "",
        throttled_until=totals.throttled_until if is_throttled else None,
        throttle_left=totals.throttled_until - record.now if is_throttled and totals.throttled_until else None,
        throttled_by=totals.throttled_by if is_throttled else "",
        waiting=totals.waiting,
        is_all_paused=record.status in ACTIVE and record.is_managed and bool(getattr(record, "is_all_paused", False)),
        pace=Pace.of(record.pace),
        elapsed=totals.elapsed,
    )


def _elapsed(record: Any, db_alias: str) -> dt.timedelta:
    """Return how long the migration was queued or running, according to its events."""
    events = Event.objects.using(db_alias).filter(key=record.key, at__gte=record.started_at).exclude(to_status="")
    moves = list(events.order_by("pk").values_list("at", "to_status"))
    is_active, since, elapsed = True, record.started_at, dt.timedelta()
    for at, status in [*moves, (record.finished_at or record.now, record.status)]:
        elapsed += max(at - since, dt.timedelta()) if is_active else dt.timedelta()
        is_active, since = status in ACTIVE, at
    return elapsed


def _failures(key: str, stage: int, db_alias: str) -> tuple[int, int]:
    """Return how many objects have failed, and how many of them are behind the cursors."""
    failures = FailedObject.objects.using(db_alias).filter(record_id=key, stage=stage, resolved_at=None)
    found = failures.aggregate(all=Count("pk"), left=Count("pk", filter=Q(is_behind_cursor=True)))
    return found["all"], found["left"]


def _waits(undone: list[Any], now: dt.datetime) -> tuple[dt.timedelta | None, dt.timedelta | None]:
    """Return the time since the last checkpoint and until the first lease expires, if all shards are held."""
    leases = [shard.lease_until - now for shard in undone if shard.lease_until and shard.lease_until > now]
    if not undone or len(leases) < len(undone):
        return None, None
    silences = [now - shard.heartbeat_at for shard in undone if shard.heartbeat_at]
    return min(silences, default=None), min(leases)


def _stall_of(undone: list[Any]) -> dict[str, Any]:
    """Return the stall of the shard with the most failed rounds."""
    stalled = [shard for shard in undone if shard.stalled_since]
    worst = max(stalled, key=lambda shard: shard.stalled_tries, default=None)
    return {name: getattr(worst, name) for name in STALL} if worst else {}


def _throttle(undone: list[Any], now: dt.datetime) -> dict[str, Any]:
    """Return the fields of `ShardTotals` about throttles and about shards without a worker."""
    waits = [shard for shard in undone if shard.throttled_until and shard.throttled_until > now]
    others = [shard for shard in undone if shard not in waits]
    at_work = sum(bool(shard.lease_until and shard.lease_until > now) for shard in others)
    silent = [shard for shard in others if not shard.heartbeat_at or shard.heartbeat_at < now - conf.settings.LEASE / 4]
    waiting = sum(not shard.lease_until or shard.lease_until <= now for shard in silent)
    first = min(waits, key=lambda shard: shard.throttled_until, default=None)
    if first is None or at_work:
        return {"waiting": waiting}
    return {"waiting": waiting, "throttled_until": first.throttled_until, "throttled_by": first.throttled_by}


def last_rate(key: str, db_alias: str) -> float | None:
    """Return the objects per second from the start of the attempt to its last checkpoint, or None."""
    started_at = MigrationRecord.objects.using(db_alias).filter(key=key).values_list("started_at", flat=True).first()
    found = ShardRecord.objects.using(db_alias).filter(record_id=key, upper__isnull=False)
    sums = found.aggregate(done=Sum("processed"), beat=Max("heartbeat_at"))
    if started_at is None or not sums["done"] or sums["beat"] is None:
        return None
    seconds = (sums["beat"] - started_at).total_seconds()
    return float(sums["done"]) / seconds if seconds > 0 else None


def has_code_changed(record: Any) -> bool:
    """Return whether a worker runs another version of the file than the current attempt started with."""
    return bool(record.running_hash and record.running_hash != record.source_hash)


class Speed:
    """The speed in rows per second, measured between calls of `add`."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._stage: tuple[str, int] | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._first = (0.0, 0)

    def add(self, progress: Progress, at: float) -> None:
        """Add a measurement at the time `at`, in seconds. A new stage resets the measurements."""
        stage = (progress.key, progress.stage)
        if stage != self._stage:
            self._stage = stage
            self._seen.clear()
            self._first = (at, progress.done)
        self._seen.append((at, progress.done))
        while len(self._seen) > 2 and self._seen[1][0] <= at - self._window:
            self._seen.popleft()

    @property
    def recent(self) -> float | None:
        """The speed over the last `window` seconds, or None before the second measurement."""
        return _rate(self._seen[0], self._seen[-1]) if self._seen else None

    @property
    def overall(self) -> float | None:
        """The speed since the first measurement of the stage, or None."""
        return _rate(self._first, self._seen[-1]) if self._seen else None

    def seconds_left(self, progress: Progress) -> float | None:
        """Return the seconds until the end of the stage at the recent speed, or None."""
        rate = self.recent or self.overall
        if not rate or not progress.is_active or progress.total is None or progress.done > progress.total:
            return None
        return (progress.total - progress.done) / rate


def rows(progress: Progress) -> list[str]:
    """Return the rows and the failed rows of the current stage as text; empty if there are none to count."""
    if progress.is_once or not progress.is_planned:
        return []
    about = "~" if progress.is_total_estimated else ""
    total = "" if progress.total is None else f"/{about}{number(progress.total)}"
    noun = "row" if (progress.total or progress.done) == 1 else "rows"
    return [
        f"{number(progress.done)}{total} {noun}",
        *([f"{number(progress.failed)} failed"] if progress.failed else []),
    ]


def describe_processed(progress: Progress) -> str:
    """Return the number of rows processed in all stages, with the number of changed rows if it differs."""
    found = counted(progress.processed, "row")
    if progress.changed is None or progress.changed == progress.processed:
        return found
    return f"{found} processed, {number(progress.changed)} changed"


def describe(progress: Progress, rate: float | None = None, seconds_left: float | None = None) -> str:
    """Return the progress in words, for commands and log lines; empty if there is nothing to say."""
    if progress.status is Status.APPLIED:
        return describe_processed(progress) if progress.has_changed_nothing else ""
    found = [progress.status.value] if progress.status in (Status.QUEUED, Status.WAITING) else []
    found += [f"stage {progress.stage + 1}"] if progress.stage else []
    if progress.is_planned and not progress.is_once and progress.fraction is not None:
        found.append(f"{int(progress.fraction * 1000) / 10:.1f}%")
    found += [*rows(progress), progress.stall, progress.throttle]
    found += ["everything is paused"] if progress.is_all_paused else []
    found += [f"pace: {progress.pace}"] if str(progress.pace) else []
    found += [f"{number(rate)} rows/s"] if rate is not None else []
    found += [f"{duration(seconds_left)} left"] if seconds_left is not None else []
    found += [progress.last_error] if progress.status is Status.FAILED else []
    return ", ".join(filter(None, found))


def _rate(first: tuple[float, int], last: tuple[float, int]) -> float | None:
    seconds = last[0] - first[0]
    return (last[1] - first[1]) / seconds if seconds > 0 else None


def is_stuck(record: Any, *, overdue: int, held: int, beat: dt.datetime | None, due: dt.datetime | None = None) -> bool:
    """Return whether an active migration should make progress but does not.

    `record` is annotated with the time of the database as `now`. Of the unfinished shards of the current stage, `held`
    have a lease and `overdue` have an expired one. `beat` is the time of the last checkpoint. `due` is the latest time
    at which the job of a shard is due for the first time, which a throttle may have delayed.
    """
    if record.status not in ACTIVE or getattr(record, "is_all_paused", False):
        return False
    if overdue or held or not record.is_managed:
        return bool(overdue)
    return idle_time(record, beat) > settings.LEASE + SOON and (due is None or due + SOON < record.now)


def idle_time(record: Any, beat: dt.datetime | None) -> dt.timedelta:
    """Return the time since the last checkpoint, or since the start if there was none."""
    since: dt.datetime | None = beat or record.started_at or record.launched_at
    return record.now - since if since else dt.timedelta(0)
