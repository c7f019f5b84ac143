"""Reads how far a migration is, and how fast it goes."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Sequence
from typing import Any

from django.db.models import Count, Max, Q, Sum

from massmigration.clock import DatabaseNow
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.states import ACTIVE, Status

WINDOW = 10.0
"""Seconds that the recent speed looks back."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One look at a migration on one database."""

    key: str
    status: Status
    attempt_id: str
    stage: int
    is_planned: bool
    is_managed: bool
    last_error: str
    total: int | None
    """Objects of the present stage, when known."""

    is_total_estimated: bool
    done: int
    """Objects of the present stage that are behind the cursors: processed, skipped, or failed and left."""

    processed: int
    """Objects processed in all stages. Stages that are done once have none."""

    failed: int
    """Objects of the present stage that have failed and not been done since."""

    is_once: bool
    """Is the present stage done once, rather than mapped over objects?"""

    silence: dt.timedelta | None
    """How long no worker has checkpointed, when workers hold all that is left of the stage."""

    lease_left: dt.timedelta | None
    """Then: when the first of their shards is free for others."""

    elapsed: dt.timedelta | None = None
    """How long it has been queued or running since its first shard could be worked at. Pauses do not count, nor does
    the time between a failure and its retry. None unless it was asked for, as `api.status` does."""

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def rate(self) -> float | None:
        """Objects a second, over `elapsed`; None before anything was done."""
        seconds = self.elapsed.total_seconds() if self.elapsed else 0
        return self.processed / seconds if seconds and self.processed else None

    @property
    def seconds_left(self) -> float | None:
        """Until the end of the stage, at the overall rate; None when that cannot be said."""
        if not self.rate or not self.is_active or self.total is None or self.done > self.total:
            return None
        return (self.total - self.done) / self.rate

    @property
    def share(self) -> float | None:
        """How much of the stage is done, from 0 to 1; 1 only when the migration is applied."""
        if self.status is Status.APPLIED:
            return 1.0
        if self.total is None or not self.is_planned:
            return None
        return min(self.done / self.total, 0.999) if self.total else 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What the shards and failed objects of a record add up to."""

    moved: int
    """Objects of the present stage that cursors have passed, processed or skipped."""

    processed: int
    is_once: bool
    failed: int
    left: int
    """Failed objects of the present stage that cursors have passed."""

    silence: dt.timedelta | None = None
    lease_left: dt.timedelta | None = None
    elapsed: dt.timedelta | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All that one look at a migration read."""

    record: Any
    """With the database's time as `now`."""

    shards: Sequence[Any]
    """Those of the present stage, by index."""

    reading: Reading


def read(key: str, db_alias: str, *, with_elapsed: bool = False) -> Reading | None:
    """Look at a migration, with three queries at most. None: it has no record.

    `with_elapsed`: find out how long it has been worked at, with one query more.
    """
    found = look(key, db_alias, "cursor", "lower", with_elapsed=with_elapsed)
    return found.reading if found else None


def look(key: str, db_alias: str, *deferred: str, with_elapsed: bool = True) -> Look | None:
    """As `read`, but return the record and the shards, without the `deferred` fields, as well."""
    record = MigrationRecord.objects.using(db_alias).filter(key=key).annotate(now=DatabaseNow()).first()
    if record is None:
        return None
    shards = list(ShardRecord.objects.using(db_alias).filter(record_id=key).defer(*deferred))
    present = [shard for shard in shards if shard.stage == record.stage]
    failed, left = _failures(key, record.stage, db_alias) if present else (0, 0)  # of earlier attempts, too
    silence, lease_left = _waits([shard for shard in present if not shard.is_done], record.now)
    tally = Tally(
        moved=sum(shard.processed + shard.skipped for shard in present),
        processed=sum(shard.processed for shard in shards if shard.upper is not None),
        is_once=bool(present) and all(shard.upper is None for shard in present),
        failed=failed,
        left=left,
        silence=silence,
        lease_left=lease_left,
        elapsed=_elapsed(record, db_alias) if with_elapsed and record.started_at else None,
    )
    return Look(record=record, shards=present, reading=reading_of(record, tally))


def reading_of(record: Any, tally: Tally) -> Reading:
    """The reading of a record, given what its shards add up to."""
    return Reading(
        key=record.key,
        status=Status(record.status),
        attempt_id=str(record.attempt_id),
        stage=record.stage,
        is_planned=record.is_planned,
        is_managed=record.is_managed,
        last_error=record.last_error,
        total=record.total,
        is_total_estimated=record.is_total_estimated,
        done=tally.moved + tally.left,
        processed=tally.processed,
        failed=tally.failed,
        is_once=tally.is_once,
        silence=tally.silence,
        lease_left=tally.lease_left,
        elapsed=tally.elapsed,
    )


def _elapsed(record: Any, db_alias: str) -> dt.timedelta:
    """From event to event, what it was queued or running."""
    events = Event.objects.using(db_alias).filter(key=record.key, at__gte=record.started_at).exclude(to_status="")
    moves = list(events.order_by("pk").values_list("at", "to_status"))
    is_active, since, elapsed = True, record.started_at, dt.timedelta()
    for at, status in [*moves, (record.finished_at or record.now, record.status)]:
        elapsed += max(at - since, dt.timedelta()) if is_active else dt.timedelta()
        is_active, since = status in ACTIVE, at
    return elapsed


def _failures(key: str, stage: int, db_alias: str) -> tuple[int, int]:
    """How many objects have failed, and how many of them were left behind; shards count every failure for good."""
    failures = FailedObject.objects.using(db_alias).filter(record_id=key, stage=stage, resolved_at=None)
    found = failures.aggregate(all=Count("pk"), left=Count("pk", filter=Q(was_passed=True)))
    return found["all"], found["left"]


def _waits(undone: list[Any], now: dt.datetime) -> tuple[dt.timedelta | None, dt.timedelta | None]:
    """How long workers that hold all the shards have been silent, and when the first lease ends."""
    leases = [shard.lease_until - now for shard in undone if shard.lease_until and shard.lease_until > now]
    if not undone or len(leases) < len(undone):
        return None, None
    silences = [now - shard.heartbeat_at for shard in undone if shard.heartbeat_at]
    return min(silences, default=None), min(leases)


def last_rate(key: str, db_alias: str) -> float | None:
    """Objects a second, from the attempt's beginning to its last checkpoint; None where nothing was done."""
    started_at = MigrationRecord.objects.using(db_alias).filter(key=key).values_list("started_at", flat=True).first()
    found = ShardRecord.objects.using(db_alias).filter(record_id=key, upper__isnull=False)
    sums = found.aggregate(done=Sum("processed"), beat=Max("heartbeat_at"))
    if started_at is None or not sums["done"] or sums["beat"] is None:
        return None
    seconds = (sums["beat"] - started_at).total_seconds()
    return float(sums["done"]) / seconds if seconds > 0 else None


class Speed:
    """Rows a second, from readings at times that the caller gives, in seconds."""

    def __init__(self, window: float = WINDOW) -> None:
        self._window = window
        self._stage: tuple[str, int] | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._first = (0.0, 0)

    def add(self, reading: Reading, at: float) -> None:
        """Take a reading into account. Another stage begins anew."""
        stage = (reading.key, reading.stage)
        if stage != self._stage:
            self._stage = stage
            self._seen.clear()
            self._first = (at, reading.done)
        self._seen.append((at, reading.done))
        while len(self._seen) > 2 and self._seen[1][0] <= at - self._window:
            self._seen.popleft()

    @property
    def recent(self) -> float | None:
        """Over the sliding window; None before there is anything to compare."""
        return _rate(self._seen[0], self._seen[-1]) if self._seen else None

    @property
    def overall(self) -> float | None:
        """Since the first reading of the stage."""
        return _rate(self._first, self._seen[-1]) if self._seen else None

    def seconds_left(self, reading: Reading) -> float | None:
        """Until the end of the stage, at the recent speed; None when that cannot be said."""
        rate = self.recent or self.overall
        if not rate or not reading.is_active or reading.total is None or reading.done > reading.total:
            return None
        return (reading.total - reading.done) / rate


def _rate(first: tuple[float, int], last: tuple[float, int]) -> float | None:
    seconds = last[0] - first[0]
    return (last[1] - first[1]) / seconds if seconds > 0 else None
