"""Shows how migrations stand: a line of text, or an object of JSON."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import DEFAULT_DB_ALIAS

from massmigration.management.bar import duration, number
from massmigration.overview import Entry
from massmigration.progress import Reading
from massmigration.states import Status

MARKS = {
    None: "[ ]",
    Status.QUEUED: "[>]",
    Status.RUNNING: "[>]",
    Status.PAUSED: "[=]",
    Status.FAILED: "[!]",
    Status.CANCELLED: "[C]",
    Status.APPLIED: "[X]",
}
FAKED = "[-]"

SAMPLE = 1.0
"""Seconds between the two looks that measure rates, when anything is running."""

LEGEND = """
marks: [X] applied; [-] marked as applied without running; [ ] not run; [>] queued or running; [=] paused;
[!] failed; [C] cancelled.
"""

FIELDS = """
--format json: a list with an object for each migration, by key, or in the order of --plan. Its fields, all always
there: key; database; status (queued, running, paused, failed, cancelled, applied; null: not run); was_faked;
is_allowed (on this database); file (found, missing, broken); file_error; dependencies (keys); stage (from 0);
total, is_total_estimated, done, failed (objects of the stage; total is null when unknown); processed (objects of
all stages); share (0 to 1, or null); rate (objects a second, or null); seconds_left (or null); launched_by (the
actor); launched_at, started_at, finished_at (ISO 8601, or null); last_error; has_code_changed (a worker runs
another version of the file than the attempt began with).
"""


def mark(entry: Entry) -> str:
    """The three characters for its status."""
    return FAKED if entry.record and entry.record.was_faked and entry.status is Status.APPLIED else MARKS[entry.status]


def line(entry: Entry, name: str) -> str:
    """Mark, name and what there is to say."""
    said = [*facts(entry), *_troubles(entry)]
    return f"{mark(entry)} {name}" + (f"  {', '.join(said)}" if said else "")


def progress(reading: Reading) -> list[str]:
    """How far its present stage is: share, rows, failed objects, as far as there are any."""
    found = [f"stage {reading.stage + 1}"] if reading.stage else []
    if reading.is_planned and not reading.is_once:
        about = "~" if reading.is_total_estimated else ""
        total = "" if reading.total is None else f"/{about}{number(reading.total)}"
        share = [] if reading.share is None else [f"{int(reading.share * 1000) / 10:.1f}%"]
        found += [*share, f"{number(reading.done)}{total} rows"]
    return [*found, *([f"{number(reading.failed)} failed"] if reading.failed else [])]


def facts(entry: Entry) -> list[str]:
    """How far it is, unless it is applied or was never launched; of one that failed, why."""
    return facts_of(entry.reading, entry.rate, entry.seconds_left) if entry.reading else []


def facts_of(reading: Reading, rate: float | None = None, seconds_left: float | None = None) -> list[str]:
    """The same of a reading."""
    if reading.status is Status.APPLIED:
        return []
    found = ["queued"] if reading.status is Status.QUEUED else []
    found += progress(reading)
    found += [f"{number(rate)} rows/s"] if rate is not None else []
    found += [f"{duration(seconds_left)} left"] if seconds_left is not None else []
    return [*found, reading.last_error] if reading.status is Status.FAILED else found


def more(entry: Entry) -> str:
    """Where the operator finds more about one that failed; empty for others."""
    if entry.status is not Status.FAILED:
        return ""
    app_label, _, name = entry.key.partition(":")
    database = "" if entry.db_alias == DEFAULT_DB_ALIAS else f" --database {entry.db_alias}"
    return f"manage.py massmigration status {app_label} {name}{database}"


def _troubles(entry: Entry) -> list[str]:
    found = ["its file is gone"] if entry.is_file_gone else []
    found += [entry.file_error] if entry.file_error else []
    found += [] if entry.is_allowed else [f"not for database {entry.db_alias!r}"]
    return [*found, "its file has changed since it was launched"] if _is_change_of_matter(entry) else found


def _is_change_of_matter(entry: Entry) -> bool:
    """What is applied stays so, whatever becomes of its file."""
    return _has_code_changed(entry) and entry.status is not Status.APPLIED


def _has_code_changed(entry: Entry) -> bool:
    record = entry.record
    return bool(record and record.running_hash and record.running_hash != record.source_hash)


def as_json(entry: Entry) -> dict[str, Any]:
    """The object that `FIELDS` describes."""
    record, reading, migration = entry.record, entry.reading, entry.migration
    return {
        "key": entry.key,
        "database": entry.db_alias,
        "status": entry.status.value if entry.status else None,
        "was_faked": record.was_faked if record else False,
        "is_allowed": entry.is_allowed,
        "file": "broken" if entry.file_error else "missing" if migration is None else "found",
        "file_error": entry.file_error,
        "dependencies": [f"{app_label}:{name}" for app_label, name in migration.dependencies] if migration else [],
        "stage": reading.stage if reading else 0,
        "total": reading.total if reading else None,
        "is_total_estimated": reading.is_total_estimated if reading else False,
        "done": reading.done if reading else 0,
        "processed": reading.processed if reading else 0,
        "failed": reading.failed if reading else 0,
        "share": reading.share if reading else None,
        "rate": entry.rate,
        "seconds_left": entry.seconds_left,
        "launched_by": record.launched_by if record else "",
        "launched_at": _time(record.launched_at) if record else None,
        "started_at": _time(record.started_at) if record else None,
        "finished_at": _time(record.finished_at) if record else None,
        "last_error": reading.last_error if reading else "",
        "has_code_changed": _has_code_changed(entry),
    }


def _time(value: dt.datetime | None) -> str | None:
    return value.isoformat() if value else None
