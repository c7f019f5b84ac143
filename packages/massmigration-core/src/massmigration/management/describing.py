"""Describes one migration: its status, shards, failed objects and last events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from massmigration.clock import DatabaseNow
from massmigration.management.bar import counted, duration, number
from massmigration.management.showing import line
from massmigration.models import Event, FailedObject, ShardRecord
from massmigration.overview import Entry

MAX_SHARDS = 20
MAX_FAILED = 10
MAX_EVENTS = 10


def describe(entry: Entry) -> Iterator[str]:
    """The lines. Of long lists only the part that matters."""
    yield line(entry, f"{entry.key} on database {entry.db_alias!r}")
    record = entry.record
    if record is not None:
        by = f" by {record.launched_by}" if record.launched_by else ""
        begun = [f"launched {record.launched_at:%Y-%m-%d %H:%M:%S}{by}"] if record.launched_at else []
        ended = [f"finished {record.finished_at:%Y-%m-%d %H:%M:%S}"] if record.finished_at else []
        yield f"    attempt {record.attempt_id}" + "".join(f", {part}" for part in [*begun, *ended])
        yield from _shards(entry)
        yield from _failed(entry)
    yield from _events(entry)


def _shards(entry: Entry) -> Iterator[str]:
    stage = entry.reading.stage if entry.reading else 0
    is_active = bool(entry.reading and entry.reading.is_active)
    shards = ShardRecord.objects.using(entry.db_alias).filter(record_id=entry.key, stage=stage)
    found = list(shards.defer("cursor", "lower", "upper").annotate(now=DatabaseNow()).order_by("is_done", "index"))
    if not found:
        return
    yield f"shards: {number(sum(shard.is_done for shard in found))} of {number(len(found))} done"
    for shard in found[:MAX_SHARDS]:
        yield f"    {shard.index}{' (failed objects)' if shard.is_redo else ''}: {_shard(shard, is_active=is_active)}"
    if len(found) > MAX_SHARDS:
        yield f"    and {number(len(found) - MAX_SHARDS)} more"


def _shard(shard: Any, *, is_active: bool) -> str:
    """What it has done, and who is at it."""
    counts = counted(shard.processed, "row") + (f", {number(shard.skipped)} vanished" if shard.skipped else "")
    if shard.is_done:
        return f"{counts}, done"
    if not shard.lease_until or shard.lease_until <= shard.now:
        return f"{counts}, waits for a worker" if is_active else f"{counts}, not done"
    return (
        f"{counts}, held by {shard.worker}, heard of {duration((shard.now - shard.heartbeat_at).total_seconds())} ago"
    )


def _failed(entry: Entry) -> Iterator[str]:
    failed = FailedObject.objects.using(entry.db_alias).filter(record_id=entry.key, resolved_at=None)
    count = failed.count()
    if not count:
        return
    yield f"failed objects: {number(count)}"
    for each in failed.defer("traceback").order_by("pk")[:MAX_FAILED]:
        name = "once" if each.object_pk is None else ", ".join(map(str, each.object_pk))
        yield f"    {name}: {each.exception_class.rpartition('.')[2]}: {each.message.strip()}"
    if count > MAX_FAILED:
        yield f"    and {number(count - MAX_FAILED)} more"


def _events(entry: Entry) -> Iterator[str]:
    events = Event.objects.using(entry.db_alias).filter(key=entry.key).order_by("-pk")
    found = list(events[:MAX_EVENTS])
    if found:
        yield "last events:"
    for event in reversed(found):
        who = f" by {event.actor}" if event.actor else ""
        detail = f": {event.detail}" if event.detail else ""
        moved = f" ({event.from_status or 'new'} -> {event.to_status})" if event.to_status else ""
        yield f"    {event.at:%Y-%m-%d %H:%M:%S} {event.verb}{who}{moved}{detail}"
