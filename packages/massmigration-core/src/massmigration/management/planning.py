"""Says what `massmigrate` would run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.db import connections

from massmigration import estimates
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage
from massmigration.management.bar import number
from massmigration.management.showing import facts
from massmigration.overview import Entry
from massmigration.querysets import prepare
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
    is_estimated = with_estimate and entry.status is None
    rows = [_rows(migration, entry.db_alias)] if is_estimated else facts(entry)
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


def _rows(migration: BaseMigration, db_alias: str) -> str:
    """How many rows the first stage has, where that is cheap to know."""
    try:
        stage = migration.get_stages()[0]
        if not isinstance(stage, MappedStage):
            return ""
        queryset = prepare(stage.get_queryset(db_alias), db_alias, name=stage.name, may_leave=not stage.atomic)
        if not estimates.is_huge(queryset):
            return f"{number(queryset.order_by().count())} rows"
        is_filtered = bool(queryset.query.where) or queryset.query.distinct
        if is_filtered and connections[queryset.db].vendor != "postgresql":
            return "many rows"
        return f"~{number(estimates.estimate(queryset))} rows"
    except Exception as error:  # the querysets are the users' code, and their tables may not be there yet
        return f"rows unknown ({type(error).__name__}: {str(error).strip()})"
