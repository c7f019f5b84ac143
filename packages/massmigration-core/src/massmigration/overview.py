"""Reads how all migrations of a database stand, in three queries whatever their number."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Collection
from typing import Any

from django.db.models import Count, Max, Q, QuerySet, Sum

from massmigration import stalling
from massmigration.clock import DatabaseNow
from massmigration.definitions.base import BaseMigration
from massmigration.loader import store
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.progress import Reading, Tally, reading_of
from massmigration.states import Status

_Sums = dict[str, dict[str, Any]]
"""What the shards of each record's present stage add up to."""

_HELD = Q(is_done=False, lease_until__isnull=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One migration on one database."""

    key: str
    db_alias: str
    migration: BaseMigration | None
    """None: its file is gone or cannot be used."""

    file_error: str = ""
    """Why its file cannot be used."""

    record: MigrationRecord | None = None
    """None: it was never launched."""

    reading: Reading | None = None
    rate: float | None = None
    """Objects a second, when it was measured and something moved."""

    is_stalled: bool = False
    """Should an operator send it again?"""

    @property
    def status(self) -> Status | None:
        return None if self.reading is None else self.reading.status

    @property
    def is_file_gone(self) -> bool:
        return self.migration is None and not self.file_error

    @property
    def is_allowed(self) -> bool:
        """Whether the migration may run on this database, as far as that is known."""
        return self.migration is None or self.db_alias in self.migration.get_allowed_db_aliases()

    @property
    def seconds_left(self) -> float | None:
        """Until the end of the stage, at the measured rate."""
        reading = self.reading
        if not self.rate or reading is None or reading.total is None or reading.done > reading.total:
            return None
        return (reading.total - reading.done) / self.rate


def read(db_alias: str, *, sample: float = 0) -> list[Entry]:
    """Every migration that has a file or a record, by key.

    With `sample`, a number of seconds, look twice when anything is running, to measure rates.
    """
    records = _records(db_alias)
    readings, sums = _read(db_alias, records.values())
    rates: dict[str, float | None] = {}
    if sample and any(reading.status is Status.RUNNING for reading in readings.values()):
        time.sleep(sample)
        before, beats = readings, _beats(sums)
        records = _records(db_alias)
        readings, sums = _read(db_alias, records.values())
        later = _beats(sums)
        rates = {key: _rate(before.get(key), new, beats.get(key), later.get(key)) for key, new in readings.items()}
    keys = sorted({*store.by_key, *store.errors, *records})
    found = [_entry(key, db_alias, records.get(key), readings.get(key), rates.get(key)) for key in keys]
    return [dataclasses.replace(entry, is_stalled=_is_stalled(entry, sums)) for entry in found]


def _is_stalled(entry: Entry, sums: _Sums) -> bool:
    mine = sums.get(entry.key, {})
    return entry.record is not None and stalling.is_stalled(
        entry.record,
        overdue=mine.get("overdue", 0),
        held=mine.get("held", 0),
        beat=mine.get("beat"),
        due=mine.get("due"),
    )


def _beats(sums: _Sums) -> dict[str, dt.datetime | None]:
    """When a worker made the last checkpoint."""
    return {key: found.get("beat") for key, found in sums.items()}


def _records(db_alias: str) -> dict[str, MigrationRecord]:
    return {record.key: record for record in MigrationRecord.objects.using(db_alias).annotate(now=DatabaseNow())}


def readings_of(records: Collection[MigrationRecord], db_alias: str) -> dict[str, Reading]:
    """How far the migrations of these records are, by key, in two queries."""
    return _read(db_alias, records, [record.key for record in records])[0]


def _entry(
    key: str, db_alias: str, record: MigrationRecord | None, reading: Reading | None, rate: float | None
) -> Entry:
    migration = store.by_key.get(key)
    error = str(store.errors[key]) if migration is None and key in store.errors else ""
    return Entry(
        key=key,
        db_alias=db_alias,
        migration=migration,
        file_error=error,
        record=record,
        reading=reading,
        rate=rate if reading and reading.status is Status.RUNNING else None,
    )


def _rate(old: Reading | None, new: Reading, beat: dt.datetime | None, later: dt.datetime | None) -> float | None:
    """From checkpoint to checkpoint: between the looks alone, a batch more or less would count too much."""
    if old is None or (old.attempt_id, old.stage) != (new.attempt_id, new.stage) or not beat or not later:
        return None
    seconds = (later - beat).total_seconds()
    return (new.done - old.done) / seconds if seconds > 0 else None


def _read(
    db_alias: str, records: Collection[MigrationRecord], keys: list[str] | None = None
) -> tuple[dict[str, Reading], _Sums]:
    stages: dict[str, dict[int, Any]] = {}
    for row in (
        _mine(ShardRecord.objects.using(db_alias), keys)
        .values("record_id", "stage")
        .order_by()
        .annotate(
            count=Count("pk"),
            ranges=Count("pk", filter=Q(upper__isnull=False)),
            processed_sum=Sum("processed"),
            skipped_sum=Sum("skipped"),
            beat=Max("heartbeat_at"),
            due=Max("next_send_at", filter=Q(is_done=False, send_count=0)),
            held=Count("pk", filter=_HELD),
            overdue=Count("pk", filter=_HELD & Q(lease_until__lt=DatabaseNow())),
        )
    ):
        stages.setdefault(row["record_id"], {})[row["stage"]] = row
    unresolved = _mine(FailedObject.objects.using(db_alias), keys).filter(resolved_at=None)
    groups = unresolved.values_list("record_id", "stage").order_by()
    failures = {
        (key, stage): (found, left)
        for key, stage, found, left in groups.annotate(Count("pk"), left=Count("pk", filter=Q(was_passed=True)))
    }
    readings = {
        record.key: reading_of(
            record, _tally(record, stages.get(record.key, {}), failures.get((record.key, record.stage), (0, 0)))
        )
        for record in records
    }
    return readings, {record.key: stages.get(record.key, {}).get(record.stage, {}) for record in records}


def _mine(queryset: QuerySet[Any], keys: list[str] | None) -> QuerySet[Any]:
    return queryset if keys is None else queryset.filter(record_id__in=keys)


def _tally(record: MigrationRecord, stages: dict[int, Any], failures: tuple[int, int]) -> Tally:
    present: dict[str, Any] = stages.get(record.stage, {})
    failed, left = failures
    return Tally(
        moved=present.get("processed_sum", 0) + present.get("skipped_sum", 0),
        processed=sum(row["processed_sum"] for row in stages.values() if row["ranges"]),
        is_once=present.get("ranges") == 0,
        failed=failed,
        left=left,
    )
