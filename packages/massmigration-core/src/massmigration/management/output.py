"""The output of commands: the status and details of a migration, and the results of dry runs and of `--verify`."""

from __future__ import annotations

import datetime as dt
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS
from django.utils import timezone

from massmigration import api
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.details import Detail, MigrationAction, details_of, json_of
from massmigration.dialects.times import DatabaseNow
from massmigration.dryrun import DryRun, ObjectResult
from massmigration.executor import completion
from massmigration.models import Event, FailedObject, ShardRecord
from massmigration.overview import MigrationStatus
from massmigration.progress import describe, has_code_changed
from massmigration.states import Status
from massmigration.text import counted, described, duration, number

MARKS = {
    None: "[ ]",
    Status.QUEUED: "[>]",
    Status.RUNNING: "[>]",
    Status.WAITING: "[?]",
    Status.PAUSED: "[=]",
    Status.FAILED: "[!]",
    Status.CANCELLED: "[C]",
    Status.APPLIED: "[X]",
}
FAKED = "[-]"

SAMPLE = 1.0
"""Seconds over which rates are measured if a migration is running."""

MAX_SHARDS = 20
MAX_FAILED = 10
MAX_EVENTS = 10

MAX_VALUE = 80
"""Length to which values are shortened."""

LEGEND = """
marks: [X] applied; [-] marked as applied without running; [ ] not run; [>] queued or running; [?] waiting;
[=] paused; [!] failed; [C] cancelled.
"""

FIELDS = """
--format json: a list with one object for each migration, sorted by key, or in the order of --plan. Every object has all
fields: key; database; status (queued, running, waiting, paused, failed, cancelled, applied; null if not run);
was_faked; is_allowed (on this database); file (found, missing, broken); file_error; dependencies (keys); stage (from
0); total, is_total_estimated, done, failed (objects of the stage; total is null if unknown); processed (objects of all
stages); changed (rows of all stages; null if unknown); fraction (of the stage, 0 to 1, or null); rate (objects per
second, or null); seconds_left (or null); stalled_since (ISO 8601, or null), stalled_tries, stalled_error (since when
the work fails, in how many rounds, and the last error); throttled_until (ISO 8601, or null), throttled_by (the throttle
that keeps workers from all shards); is_all_paused (whether everything is paused on the database); pace (an object with
what operators have set while it runs: batch_duration in seconds, max_batch_size, max_rows_per_second, max_workers,
window, throttles, level; steered_workers of adaptive pace; stop_at_rows, stop_at of a requested stop; without a name:
not set); question (what an operator must confirm; empty unless waiting), waiting_since (ISO 8601, or null); launched_by
(the actor); launched_at, started_at, finished_at (ISO 8601, or null); last_error; has_code_changed (whether a worker
runs another version of the file than the attempt started with).
"""


def mark(entry: MigrationStatus) -> str:
    """Return the mark for the status of a migration."""
    return FAKED if entry.record and entry.record.was_faked and entry.status is Status.APPLIED else MARKS[entry.status]


def status_line(entry: MigrationStatus, name: str) -> str:
    """Return the line for one migration: mark, name, progress and problems."""
    texts = [*filter(None, [facts(entry), entry.question]), *_problems(entry)]
    return f"{mark(entry)} {name}" + (f"  {', '.join(texts)}" if texts else "")


def facts(entry: MigrationStatus) -> str:
    """Return the progress of a migration in words; empty if it is applied or was never launched."""
    return describe(entry.progress, entry.rate, entry.seconds_left) if entry.progress else ""


def more(entry: MigrationStatus) -> str:
    """Return the command that continues a waiting migration or shows more about a failed one; empty for others."""
    if entry.status not in (Status.FAILED, Status.WAITING):
        return ""
    app_label, _, name = entry.key.partition(":")
    database = "" if entry.db_alias == DEFAULT_DB_ALIAS else f" --database {entry.db_alias}"
    action = "proceed" if entry.status is Status.WAITING else "status"
    return f"manage.py massmigration {action} {app_label} {name}{database}"


def _problems(entry: MigrationStatus) -> list[str]:
    found = ["its file is missing"] if entry.is_file_gone else []
    found += [entry.file_error] if entry.file_error else []
    found += [] if entry.is_allowed else [f"not for database {entry.db_alias!r}"]
    is_outdated = _has_code_changed(entry) and entry.status is not Status.APPLIED
    return [*found, "its file has changed since the launch"] if is_outdated else found


def _has_code_changed(entry: MigrationStatus) -> bool:
    return entry.record is not None and has_code_changed(entry.record)


def as_json(entry: MigrationStatus) -> dict[str, Any]:
    """Return the object that `FIELDS` describes."""
    record, progress, migration = entry.record, entry.progress, entry.migration
    return {
        "key": entry.key,
        "database": entry.db_alias,
        "status": entry.status.value if entry.status else None,
        "was_faked": record.was_faked if record else False,
        "is_allowed": entry.is_allowed,
        "file": "broken" if entry.file_error else "missing" if migration is None else "found",
        "file_error": entry.file_error,
        "dependencies": [f"{app_label}:{name}" for app_label, name in migration.dependencies] if migration else [],
        "stage": progress.stage if progress else 0,
        "total": progress.total if progress else None,
        "is_total_estimated": progress.is_total_estimated if progress else False,
        "done": progress.done if progress else 0,
        "processed": progress.processed if progress else 0,
        "changed": progress.changed if progress else 0,
        "failed": progress.failed if progress else 0,
        "fraction": progress.fraction if progress else None,
        "rate": entry.rate,
        "seconds_left": entry.seconds_left,
        "stalled_since": _time(progress.stalled_since) if progress else None,
        "stalled_tries": progress.stalled_tries if progress else 0,
        "stalled_error": progress.stalled_error if progress else "",
        "throttled_until": _time(progress.throttled_until) if progress else None,
        "throttled_by": progress.throttled_by if progress else "",
        "is_all_paused": progress.is_all_paused if progress else False,
        "pace": progress.pace.as_json() if progress else {},
        "question": entry.question,
        "waiting_since": _time(record.waiting_since) if record else None,
        "launched_by": record.launched_by if record else "",
        "launched_at": _time(record.launched_at) if record else None,
        "started_at": _time(record.started_at) if record else None,
        "finished_at": _time(record.finished_at) if record else None,
        "last_error": progress.last_error if progress else "",
        "has_code_changed": _has_code_changed(entry),
    }


def _time(value: dt.datetime | None) -> str | None:
    return value.isoformat() if value else None


def detail_lines(entry: MigrationStatus) -> Iterator[str]:
    """Yield the lines about one migration: status, shards, failed objects and last events."""
    yield status_line(entry, f"{entry.key} on database {entry.db_alias!r}")
    record = entry.record
    if record is not None:
        by = f" by {record.launched_by}" if record.launched_by else ""
        begun = [f"launched {_local_time(record.launched_at)}{by}"] if record.launched_at else []
        begun += [f"waiting since {_local_time(record.waiting_since)}"] if record.waiting_since else []
        ended = [f"finished {_local_time(record.finished_at)}"] if record.finished_at else []
        yield f"    attempt {record.attempt_id}" + "".join(f", {part}" for part in [*begun, *ended])
        yield from _shards(entry)
        yield from _failed(entry)
    yield from _details(entry)
    yield from _events(entry)


def _details(entry: MigrationStatus) -> Iterator[str]:
    """Yield the details and the actions that the migration defines itself."""
    found = _own_details(entry)
    if found:
        yield "details:"
    for detail in found:
        level = "" if detail.level == "info" else f" ({detail.level})"
        # The lines of a value are below each other.
        lines = _detail(detail.value).splitlines() or [""]
        yield f"    {detail.label}: {lines[0] if len(lines) == 1 else ''}".rstrip() + level
        yield from (f"        {line}" for line in lines if len(lines) > 1)
    try:
        actions = own_actions(entry)
    except Exception as error:
        yield f"actions: get_actions() raised {described(error)}"
        return
    if actions:
        yield "actions of this migration:"
    for action in actions:
        yield f"    {action.name}: {action.description}"


def own_actions(entry: MigrationStatus) -> list[MigrationAction]:
    """Return the actions that the migration defines itself and offers now."""
    return api.migration_actions(entry.key, entry.db_alias) if entry.migration and entry.is_allowed else []


def _own_details(entry: MigrationStatus) -> list[Detail]:
    return details_of(entry.migration, entry.db_alias) if entry.is_allowed else []


def details_as_json(entry: MigrationStatus) -> dict[str, Any]:
    """Return what `massmigration status --format json` adds to `as_json`."""
    return {
        "details": [
            {"label": detail.label, "value": json_of(detail.value), "level": detail.level}
            for detail in _own_details(entry)
        ],
        "actions": [
            {"name": action.name, "label": action.label, "description": action.description}
            for action in own_actions(entry)
        ],
    }


def _detail(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, dt.timedelta):
        return duration(value.total_seconds())
    if isinstance(value, dt.datetime):
        return _local_time(value)
    return number(value) if type(value) is int else str(value)


def _shards(entry: MigrationStatus) -> Iterator[str]:
    stage = entry.progress.stage if entry.progress else 0
    is_active = bool(entry.progress and entry.progress.is_active)
    shards = ShardRecord.objects.using(entry.db_alias).filter(record_id=entry.key, stage=stage)
    found = list(shards.defer("cursor", "lower").annotate(now=DatabaseNow()).order_by("is_done", "index"))
    if not found:
        return
    yield f"shards: {number(sum(shard.is_done for shard in found))} of {number(len(found))} done"
    for shard in found[:MAX_SHARDS]:
        yield f"    {shard.index}{' (failed objects)' if shard.is_retry else ''}: {_shard(shard, is_active=is_active)}"
    if len(found) > MAX_SHARDS:
        yield f"    and {number(len(found) - MAX_SHARDS)} more"


def _shard(shard: Any, *, is_active: bool) -> str:
    """Return the rows and the state of a shard."""
    counts = counted(shard.processed, "row")
    if shard.changed is not None and shard.changed != shard.processed and shard.upper is not None:
        counts += f", {number(shard.changed)} changed"
    counts += f", {number(shard.skipped)} skipped" if shard.skipped else ""
    if shard.is_done:
        return f"{counts}, done"
    if not shard.lease_until or shard.lease_until <= shard.now:
        return f"{counts}, waiting for a worker" if is_active else f"{counts}, not done"
    last_seen = duration((shard.now - shard.heartbeat_at).total_seconds())
    return f"{counts}, in progress at {shard.worker}, last seen {last_seen} ago"


def _failed(entry: MigrationStatus) -> Iterator[str]:
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


def _events(entry: MigrationStatus) -> Iterator[str]:
    events = Event.objects.using(entry.db_alias).filter(key=entry.key).order_by("-pk")
    found = list(events[:MAX_EVENTS])
    if found:
        yield "last events:"
    for event in reversed(found):
        who = f" by {event.actor}" if event.actor else ""
        detail = f": {event.detail}" if event.detail else ""
        moves = [event.from_status or "new", event.to_status]
        moved = f" ({' -> '.join(dict.fromkeys(moves))})" if event.to_status else ""
        yield f"    {_local_time(event.at)} {event.verb}{who}{moved}{detail}"


def _local_time(at: dt.datetime) -> str:
    """Return a time in the current time zone."""
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M:%S}"


def dry_run_lines(key: str, db_alias: str, found: DryRun) -> Iterator[str]:
    """Yield the lines about a dry run: one for each object, then warnings and totals."""
    count = len(found.objects)
    objects = counted(count, "object")
    yield f"Dry run of {key} on database {db_alias!r} with {objects}. Nothing was saved."
    for result in found.objects:
        yield f"  {', '.join(map(str, result.object_pk)) or 'once'}: {_outcome(result)}"
    failed = sum(bool(result.error) for result in found.objects)
    if failed:
        yield f"{number(failed)} of {objects} failed."
    if found.has_changed_nothing:
        yield (
            "Warning: no object was changed, and nothing else was written. Check that the operation saves its objects, "
            "or that update_fields names the fields it assigns."
        )
    if found.unwritten:
        names = ", ".join(map(repr, found.unwritten))
        yield f"Warning: the operation assigned {names}, which is not in update_fields and will not be written."
    if found.mails:
        yield f"Captured {counted(found.mails, 'mail')}; not sent."
    for line in found.sends:
        yield f"Captured: {line}"
    if found.rate and found.estimate is not None and any(result.object_pk for result in found.objects):
        about = "about " if found.is_total_estimated else ""
        yield (
            f"At {number(found.rate)} rows/s, one by one, {about}{counted(found.total, 'row')} would take "
            f"{duration(found.estimate.total_seconds())}. A run processes them in batches and is faster."
        )


def _outcome(result: ObjectResult) -> str:
    if result.error:
        return result.error
    if result.is_gone:
        return "deleted"
    if not result.object_pk:
        return "done"
    changes = [f"{name} {_value(before)} -> {_value(after)}" for name, (before, after) in result.changes.items()]
    return ", ".join(changes) or "unchanged"


def _value(value: Any) -> str:
    return textwrap.shorten(repr(value), MAX_VALUE, placeholder="...")


def verification_lines(migrations: Sequence[BaseMigration], db_alias: str) -> Iterator[tuple[str, bool]]:
    """Yield a line for each applied migration, and whether it reports a problem."""
    for migration in migrations:
        found = completion.verify(migration, db_alias)
        if found.error:
            yield f"{migration.key}  applied, cannot be verified ({found.error})", True
        elif found.left:
            again = f"massmigration forget {migration.app_label} {migration.name} --database {db_alias}"
            rows = f"{number(found.left)} new {'row needs' if found.left == 1 else 'rows need'} it"
            yield f"{migration.key}  applied, but {rows}. To process them: manage.py {again}, then massmigrate", True
        elif found.unknown:
            yield (
                f"{migration.key}  applied, cannot be verified: {found.unknown}; define remaining() to verify it",
                False,
            )
        else:
            yield f"{migration.key}  applied, nothing remains", False
