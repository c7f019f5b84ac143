"""Says what `massmigrate` would run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from django.db import DatabaseError, connections

from massmigration import estimates, progress
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage
from massmigration.management.bar import counted, duration, number
from massmigration.management.showing import facts
from massmigration.overview import Entry
from massmigration.states import Status

_WHAT = {
    None: "not run",
    Status.QUEUED: "queued; would be watched",
    Status.RUNNING: "running; would be watched",
    Status.PAUSED: "paused; would go on",
    Status.FAILED: "failed; would be retried",
    Status.CANCELLED: "cancelled; would be retried",
}


def line(
    migration: BaseMigration,
    entries: Mapping[str, Entry],
    known: Sequence[str],
    *,
    is_named: bool,
    with_estimate: bool,
) -> str:
    """One migration that is not applied. `known`: the keys that the same command runs before it."""
    entry = entries[migration.key]
    what = _WHAT[entry.status]
    if entry.status is Status.CANCELLED and not is_named:
        what = "cancelled; would be skipped, name it to run it"
    rows = facts(entry)
    if with_estimate and entry.status is None:
        text, count = _rows(migration, entry.db_alias)
        rows = [text, _time(migration, entry.db_alias, count)]
    elif with_estimate and entry.reading and entry.reading.total is not None:
        rows.append(_time(migration, entry.db_alias, entry.reading.total - entry.reading.done))
    needed = [f"{app_label}:{name}" for app_label, name in migration.dependencies]
    missing = [key for key in needed if not _is_applied(entries.get(key)) and key not in known]
    waits = f"needs {', '.join(missing)}, which would not be run before it" if missing else ""
    return f"{migration.key}  {', '.join(filter(None, [what, *rows, waits]))}"


def is_outstanding(migration: BaseMigration, entries: Mapping[str, Entry]) -> bool:
    """Whether the migration is not applied on a database that it is meant for."""
    entry = entries[migration.key]
    return entry.is_allowed and not _is_applied(entry)


def _is_applied(entry: Entry | None) -> bool:
    return entry is not None and entry.status is Status.APPLIED


def _rows(migration: BaseMigration, db_alias: str) -> tuple[str, int | None]:
    """How many rows the first stage has, where that is cheap to know: as text, and as a number."""
    try:
        stage = migration.get_stages()[0]
        if not isinstance(stage, MappedStage):
            return "", None
        queryset = stage.rows(db_alias, is_quiet=True)
        if not estimates.is_huge(queryset):
            count = queryset.order_by().count()
            return counted(count, "row"), count
        is_filtered = bool(queryset.query.where) or queryset.query.distinct
        if is_filtered and connections[queryset.db].vendor != "postgresql":
            return "many rows", None
        count = estimates.estimate(queryset)
        return f"~{number(count)} rows", count
    except Exception as error:  # the querysets are the users' code, and their tables may not be there yet
        return f"rows unknown ({type(error).__name__}: {str(error).strip()})", None


def _time(migration: BaseMigration, db_alias: str, count: int | None) -> str:
    """How long so many rows take at the rate last seen, on this database or else on another; empty without one."""
    if not count or count < 0:
        return ""
    others = [alias for alias in migration.get_allowed_db_aliases() if alias != db_alias]
    for alias in (db_alias, *others):
        with contextlib.suppress(DatabaseError):  # others may be out of reach, or have no records
            rate = progress.last_rate(migration.key, alias)
            if rate:
                where = "" if alias == db_alias else f" as on {alias!r}"
                return f"about {duration(count / rate)} at {number(rate)} rows/s{where}"
    return ""
