"""The progress of all migrations of a database, in three queries whatever their number."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Collection
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet, Sum

from massmigration.conf import settings as conf
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import question_of
from massmigration.dialects.times import DatabaseNow
from massmigration.loader import store
from massmigration.models import FailedObject, MigrationRecord, ShardRecord, all_paused
from massmigration.progress import Progress, ShardTotals, is_stuck, progress_of
from massmigration.recorder.shards import LEASE_FREE, NOT_THROTTLED
from massmigration.states import Status

_Sums = dict[str, dict[str, Any]]
"""By key: the sums over the shards of the current stage."""

_STALLED = Q(is_done=False, stalled_since__isnull=False)
_UNDONE = Q(is_done=False)
_WAITS = Q(is_done=False, throttled_until__gt=DatabaseNow())
_HELD = Q(is_done=False, lease_until__isnull=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """The status of one migration on one database."""

    key: str
    db_alias: str
    migration: BaseMigration | None
    """None if its file is missing or cannot be used."""

    file_error: str = ""
    """The reason why its file cannot be used."""

    record: MigrationRecord | None = None
    """None if it was never launched."""

    progress: Progress | None = None
    rate: float | None = None
    """Objects per second, if the rate was measured."""

    is_stuck: bool = False
    """Whether the migration should make progress but does not."""

    @property
    def status(self) -> Status | None:
        """The status, or None if there is no record."""
        return None if self.progress is None else self.progress.status

    @property
    def question(self) -> str:
        """What an operator must confirm if the migration is waiting; empty if it is not, or its file has changed."""
        is_waiting = self.progress is not None and self.progress.status is Status.WAITING
        return question_of(self.migration, self.progress.stage) if self.progress and is_waiting else ""

    @property
    def is_file_gone(self) -> bool:
        """Whether the migration has a record but no file."""
        return self.migration is None and not self.file_error

    @property
    def is_allowed(self) -> bool:
        """Whether the migration may run on this database, as far as its file is known."""
        return self.migration is None or self.db_alias in self.migration.get_allowed_db_aliases()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end of the stage at the measured rate, or None."""
        progress = self.progress
        if not self.rate or progress is None or progress.total is None or progress.done > progress.total:
            return None
        return (progress.total - progress.done) / self.rate


def read(db_alias: str, *, sample: float = 0) -> list[MigrationStatus]:
    """Return all migrations that have a file or a record, sorted by key.

    If a migration is running and `sample` is given, measure the rates over that many seconds.
    """
    records = _records(db_alias)
    all_progress, sums = _read(db_alias, records.values())
    rates: dict[str, float | None] = {}
    if sample and any(progress.status is Status.RUNNING for progress in all_progress.values()):
        time.sleep(sample)
        before, beats = all_progress, _beats(sums)
        records = _records(db_alias)
        all_progress, sums = _read(db_alias, records.values())
        later = _beats(sums)
        rates = {key: _rate(before.get(key), new, beats.get(key), later.get(key)) for key, new in all_progress.items()}
    keys = sorted({*store.by_key, *store.errors, *records})
    found = [_entry(key, db_alias, records.get(key), all_progress.get(key), rates.get(key)) for key in keys]
    return [dataclasses.replace(entry, is_stuck=_is_stuck(entry, sums)) for entry in found]


def is_applied(status: MigrationStatus | None) -> bool:
    """Return whether the migration exists and is applied."""
    return status is not None and status.status is Status.APPLIED


def _is_stuck(entry: MigrationStatus, sums: _Sums) -> bool:
    mine = sums.get(entry.key, {})
    return entry.record is not None and is_stuck(
        entry.record,
        overdue=mine.get("overdue", 0),
        held=mine.get("held", 0),
        beat=mine.get("beat"),
        due=mine.get("due"),
    )


def _beats(sums: _Sums) -> dict[str, dt.datetime | None]:
    """Return the times of the last checkpoints by key."""
    return {key: found.get("beat") for key, found in sums.items()}


def _records(db_alias: str) -> dict[str, MigrationRecord]:
    records = MigrationRecord.objects.using(db_alias)
    found = records.annotate(now=DatabaseNow(), is_all_paused=all_paused(db_alias))
    return {record.key: record for record in found}


def progress_by_key(records: Collection[MigrationRecord], db_alias: str) -> dict[str, Progress]:
    """Return the progress of the records by key, in two queries."""
    return _read(db_alias, records, [record.key for record in records])[0]


def _entry(
    key: str, db_alias: str, record: MigrationRecord | None, progress: Progress | None, rate: float | None
) -> MigrationStatus:
    migration = store.by_key.get(key)
    error = str(store.errors[key]) if migration is None and key in store.errors else ""
    return MigrationStatus(
        key=key,
        db_alias=db_alias,
        migration=migration,
        file_error=error,
        record=record,
        progress=progress,
        rate=rate if progress and progress.status is Status.RUNNING else None,
    )


def _rate(old: Progress | None, new: Progress, beat: dt.datetime | None, later: dt.datetime | None) -> float | None:
    """Return the rate between two checkpoints. Between two readings, a single batch would distort it."""
    if old is None or (old.attempt_id, old.stage) != (new.attempt_id, new.stage) or not beat or not later:
        return None
    seconds = (later - beat).total_seconds()
    return (new.done - old.done) / seconds if seconds > 0 else None


def _read(
    db_alias: str, records: Collection[MigrationRecord], keys: list[str] | None = None
) -> tuple[dict[str, Progress], _Sums]:
    stages: dict[str, dict[int, Any]] = {}
    silent = Q(heartbeat_at__isnull=True) | Q(heartbeat_at__lt=DatabaseNow(-conf.LEASE / 4))
    for row in (
        _mine(ShardRecord.objects.using(db_alias), keys)
        .values("record_id", "stage")
        .order_by()
        .annotate(
            count=Count("pk"),
            ranges=Count("pk", filter=Q(upper__isnull=False)),
            processed_sum=Sum("processed"),
            changed_sum=Sum("changed"),
            not_known=Count("pk", filter=Q(changed__isnull=True)),
            skipped_sum=Sum("skipped"),
            beat=Max("heartbeat_at"),
            due=Max("next_send_at", filter=Q(is_done=False, send_count=0)),
            held=Count("pk", filter=_HELD),
            overdue=Count("pk", filter=_HELD & Q(lease_until__lt=DatabaseNow())),
            stall_since=Min("stalled_since", filter=_STALLED),
            stall_tries=Max("stalled_tries", filter=_STALLED),
            stall_error=Max("stalled_error", filter=_STALLED),
            at_work=Count("pk", filter=_HELD & Q(lease_until__gt=DatabaseNow()) & NOT_THROTTLED),
            waiting=Count("pk", filter=_UNDONE & LEASE_FREE & NOT_THROTTLED & silent),
            until=Min("throttled_until", filter=_WAITS),
        )
    ):
        stages.setdefault(row["record_id"], {})[row["stage"]] = row
    _add_throttles(db_alias, stages)
    unresolved = _mine(FailedObject.objects.using(db_alias), keys).filter(resolved_at=None)
    groups = unresolved.values_list("record_id", "stage").order_by()
    counts = groups.annotate(Count("pk"), behind_cursor=Count("pk", filter=Q(is_behind_cursor=True)))
    failures = {(key, stage): (found, behind_cursor) for key, stage, found, behind_cursor in counts}
    all_progress = {
        record.key: progress_of(
            record, _totals(record, stages.get(record.key, {}), failures.get((record.key, record.stage), (0, 0)))
        )
        for record in records
    }
    return all_progress, {record.key: stages.get(record.key, {}).get(record.stage, {}) for record in records}


def _add_throttles(db_alias: str, stages: dict[str, dict[int, Any]]) -> None:
    """Add the name of the throttle that the first of each stage's shards waits for."""
    keys = [key for key, rows in stages.items() if any(row["until"] for row in rows.values())]
    if not keys:
        return
    waiting = ShardRecord.objects.using(db_alias).filter(_WAITS, record_id__in=keys).order_by("-throttled_until")
    for key, stage, name in waiting.values_list("record_id", "stage", "throttled_by"):
        if stage in stages[key]:
            stages[key][stage]["by"] = name


def _mine(queryset: QuerySet[Any], keys: list[str] | None) -> QuerySet[Any]:
    return queryset if keys is None else queryset.filter(record_id__in=keys)


def _totals(record: MigrationRecord, stages: dict[int, Any], failures: tuple[int, int]) -> ShardTotals:
    current: dict[str, Any] = stages.get(record.stage, {})
    failed, behind_cursor = failures
    mapped = [row for row in stages.values() if row["ranges"]]
    return ShardTotals(
        moved=current.get("processed_sum", 0) + current.get("skipped_sum", 0),
        processed=sum(row["processed_sum"] for row in mapped),
        changed=None if any(row["not_known"] for row in mapped) else sum(row["changed_sum"] for row in mapped),
        is_once=current.get("ranges") == 0,
        failed=failed,
        failed_behind_cursor=behind_cursor,
        stalled_since=current.get("stall_since"),
        stalled_tries=current.get("stall_tries") or 0,
        stalled_error=current.get("stall_error") or "",
        throttled_until=None if current.get("at_work") else current.get("until"),
        throttled_by=current.get("by") or "",
        waiting=current.get("waiting", 0),
    )
