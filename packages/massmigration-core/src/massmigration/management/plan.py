"""The plan of `massmigrate`: what it would run, how many rows, and for how long."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from django.db import DatabaseError

from massmigration import progress, text
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, without_waits
from massmigration.dialects import dialect_of
from massmigration.dialects.errors import with_advice
from massmigration.management.output import facts
from massmigration.overview import MigrationStatus, is_applied
from massmigration.paging import statistics
from massmigration.states import Status
from massmigration.text import counted, duration, number

_PLANS = {
    None: "not run",
    Status.QUEUED: "queued; would be watched",
    Status.RUNNING: "running; would be watched",
    Status.WAITING: "waiting for an operator; would be skipped",
    Status.PAUSED: "paused; would be resumed",
    Status.FAILED: "failed; would be retried",
    Status.CANCELLED: "cancelled; would be retried",
}


def line(
    migration: BaseMigration,
    entries: Mapping[str, MigrationStatus],
    known: Sequence[str],
    *,
    is_named: bool,
    with_estimate: bool,
) -> str:
    """Return the line for one migration. `known` are the keys that the same command runs before it."""
    entry = entries[migration.key]
    what = _PLANS[entry.status]
    if entry.status is Status.CANCELLED and not is_named:
        what = "cancelled; would be skipped unless you name it"
    rows = [facts(entry)]
    if with_estimate and entry.status is None:
        text, count = _rows(migration, entry.db_alias)
        rows = [text, _time(migration, entry.db_alias, count)]
    elif with_estimate and entry.progress and entry.progress.total is not None:
        rows.append(_time(migration, entry.db_alias, entry.progress.total - entry.progress.done))
    needed = [f"{app_label}:{name}" for app_label, name in migration.dependencies]
    missing = [key for key in needed if not is_applied(entries.get(key)) and key not in known]
    blocked = f"blocked by {', '.join(missing)}, which would not run before it" if missing else ""
    return f"{migration.key}  {', '.join(filter(None, [what, *rows, blocked]))}"


def is_outstanding(migration: BaseMigration, entries: Mapping[str, MigrationStatus]) -> bool:
    """Return whether the migration is allowed on its database and not applied."""
    entry = entries[migration.key]
    return entry.is_allowed and not is_applied(entry)


def _rows(migration: BaseMigration, db_alias: str) -> tuple[str, int | None]:
    """Return the number of rows of the first stage, as text and as a number, if it is cheap to find out."""
    try:
        stage = without_waits(migration.get_stages())[0]
        if not isinstance(stage, MappedStage):
            return "", None
        queryset = stage.rows(db_alias, is_quiet=True)
        if not statistics.is_huge(queryset):
            count = queryset.order_by().count()
            return counted(count, "row"), count
        is_filtered = bool(queryset.query.where) or queryset.query.distinct
        if is_filtered and not dialect_of(queryset.db).estimates_conditions:
            return "many rows", None
        count = statistics.estimate(queryset)
        return f"~{counted(count, 'row')}", count
    except Exception as error:  # raised by the migration's code, whose tables may not exist yet
        return f"rows unknown ({text.described(with_advice(error))})", None


def _time(migration: BaseMigration, db_alias: str, count: int | None) -> str:
    """Return how long the rows would take at the last rate on this database or another; empty if unknown."""
    if not count or count < 0:
        return ""
    others = [alias for alias in migration.get_allowed_db_aliases() if alias != db_alias]
    for alias in (db_alias, *others):
        with contextlib.suppress(DatabaseError):  # another database may be down or have no tables
            rate = progress.last_rate(migration.key, alias)
            if rate:
                where = "" if alias == db_alias else f" as on {alias!r}"
                return f"about {duration(count / rate)} at {number(rate)} rows/s{where}"
    return ""
