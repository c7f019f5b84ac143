"""Changes of a migration's pace."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from massmigration.conf import settings
from massmigration.dialects import engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import InvalidTransition
from massmigration.jobs import Job
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.pace import Pace, difference
from massmigration.recorder import events, records, stops, waits
from massmigration.recorder.shards import LONG_AGO, retried_on_contention
from massmigration.recorder.waits import OF_OPERATION
from massmigration.states import Status

CHANGEABLE = frozenset(set(Status) - {Status.APPLIED})
"""The statuses in which the pace can be changed. It is kept for the next attempt."""


def change(db_alias: str, key: str, changes: Mapping[str, Any], *, actor: str) -> MigrationRecord:
    """Change these parts of a migration's pace, and end the waits that throttles have asked for. Return the record."""
    return _change(db_alias, key, lambda pace, now: pace.with_changes(changes), actor=actor, verb="pace")


def stop_after(db_alias: str, key: str, rows: int | None, time: dt.timedelta | None, *, actor: str) -> None:
    """Let a migration pause by itself after this number of further rows or this time, whichever is first."""

    def changed(pace: Pace, now: dt.datetime) -> Pace:
        at_rows = None if rows is None else stops.rows_done(db_alias, key) + rows
        return dataclasses.replace(pace, stop_at_rows=at_rows, stop_at=None if time is None else now + time)

    _change(db_alias, key, changed, actor=actor, verb="stop-after")


def steer_workers(job: Job, change: str) -> bool:
    """Let adaptive pace choose `fewer` or `more` workers: half of those that have a shard, or one more.

    Return whether the number has changed. It is no operator's change, so it leaves no event.
    """
    with engine_transaction(job.db_alias):
        mine = MigrationRecord.objects.using(job.db_alias).filter(
            key=job.key, attempt_id=job.attempt_id, status=Status.RUNNING
        )
        found = mine.select_for_update().values_list("pace", flat=True).first()
        if found is None:
            return False
        pace = Pace.of(found)
        steered = _steered(pace.steered_workers, waits.active_workers(job).workers, change)
        if steered == pace.steered_workers:
            return False
        new = dataclasses.replace(pace, steered_workers=steered)
        return bool(mine.update(pace=new.as_json()))


def _steered(present: int | None, workers: int, change: str) -> int | None:
    if change == "fewer":
        return max(workers // 2, 1)
    if present is None:
        return None
    return present + 1 if present < settings.SHARDS else None


@retried_on_contention
def _change(
    db_alias: str, key: str, changed: Callable[[Pace, dt.datetime], Pace], *, actor: str, verb: str
) -> MigrationRecord:
    record = records.require(db_alias, key, verb, CHANGEABLE)
    if not record.is_managed:
        raise InvalidTransition(
            f"Cannot change the pace of migration {key!r} on database {db_alias!r}: it is unmanaged, so its own "
            "launch() or a custom backend runs it."
        )
    with engine_transaction(db_alias, durable=False):
        mine = MigrationRecord.objects.using(db_alias).filter(key=key, attempt_id=record.attempt_id)
        # Locked, because two operators may change different parts of it.
        locked = mine.select_for_update().annotate(now=DatabaseNow()).first()
        if locked is None:
            raise InvalidTransition(f"Migration {key!r} on database {db_alias!r} has changed meanwhile. Try again.")
        old = Pace.of(locked.pace)
        new = changed(old, locked.now)
        if new == old:
            return locked
        mine.update(pace=new.as_json(), limited_until=None)
        _end_waits(db_alias, key)
        events.add(db_alias, key, verb, attempt_id=record.attempt_id, actor=actor, detail=difference(old, new))
    locked.pace = new.as_json()
    return locked


def _end_waits(db_alias: str, key: str) -> None:
    """End the waits of shards that throttles have asked for. The throttles are called again before the next batch."""
    shards = ShardRecord.objects.using(db_alias).filter(record_id=key, throttled_until__gt=DatabaseNow())
    found = dict(shards.values_list("pk", "throttled_by"))
    # A shard with a running batch is not throttled, so this waits for no batch.
    for pk, by in found.items():
        if not by.startswith(OF_OPERATION):
            ShardRecord.objects.using(db_alias).filter(pk=pk, throttled_until__gt=DatabaseNow()).update(
                throttled_until=None, next_send_at=DatabaseNow(LONG_AGO), send_count=0
            )
