"""The list of all migrations on all databases."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from massmigration import api, overview, text
from massmigration.exceptions import RecordsUnreadable
from massmigration.overview import MigrationStatus, is_applied
from massmigration.recorder import tables
from massmigration.views import base, formatting
from massmigration.views.base import may, page

PAGE_SIZE = 100
MAX_CARDS = 12

URGENT = ("failed", "stuck", "waiting", "running", "queued", "paused")
"""The states of the migrations that are shown in cards above the list."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A migration on one database: a cell of the table."""

    key: str
    db_alias: str
    state: str = ""
    """A key of `formatting.STATES`; empty if the migration has none on this database."""

    note: Any = ""
    """The reason why there is no state."""

    entry: MigrationStatus | None = None
    blocked_by: tuple[str, ...] = ()
    """The keys of its dependencies that are not applied."""

    @property
    def badge(self) -> formatting.Badge:
        """The state as a badge."""
        return formatting.Badge(self.state)

    @property
    def rows(self) -> str:
        """The rows of the current stage."""
        return formatting.rows(self.entry.progress) if self.entry and self.entry.progress else ""

    @property
    def percent(self) -> str:
        """The completed part of the current stage."""
        return formatting.percent(self.entry.progress) if self.entry and self.entry.progress else ""

    @property
    def failed(self) -> str:
        """The number of failed objects; empty if there are none."""
        progress = self.entry.progress if self.entry else None
        return formatting.failed(progress.failed) if progress and progress.failed else ""

    @property
    def question(self) -> str:
        """What an operator must confirm; empty if nothing."""
        return self.entry.question if self.entry else ""

    @property
    def is_open(self) -> bool:
        """Whether to show a progress bar."""
        return self.state in ("running", "stuck", "paused", "failed", "cancelled") and bool(self.percent)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A migration on all databases: a row of the table."""

    key: str
    app_label: str
    name: str
    description: str
    problem: str
    is_gone: bool
    cells: list[Cell]

    @property
    def states(self) -> set[str]:
        """The states on all databases."""
        found = {cell.state for cell in self.cells if cell.state}
        return found | ({"broken"} if self.problem else set()) | ({"gone"} if self.is_gone else set())


def _paused(problems: dict[str, str]) -> list[dict[str, Any]]:
    """Return the databases on which everything is paused, with who paused it, when and why."""
    switches = {db_alias: api.paused_all(db_alias) for db_alias in connections if db_alias not in problems}
    return [
        {"db_alias": db_alias, "by": found.changed_by, "at": found.changed_at, "reason": found.reason}
        for db_alias, found in switches.items()
        if found
    ]


@page()
def manage(request: HttpRequest) -> HttpResponse:
    """Show the migrations, filtered by status, app and text."""
    may_inspect = may(request, "inspect")
    problems, entries = _read(may_inspect=may_inspect)
    rows = _rows(entries, problems, may_inspect=may_inspect)
    chosen = {name: request.GET.get(name, "").strip() for name in ("status", "app", "q")}
    found = [row for row in rows if _matches(row, chosen)]
    counts = Counter(state for row in rows if _matches(row, {**chosen, "status": ""}) for state in row.states)
    shown = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    urgent = [cell for row in rows for cell in row.cells if cell.state in URGENT]
    urgent.sort(key=lambda cell: URGENT.index(cell.state))
    context = {
        "title": gettext("Mass migrations"),
        "paused": _paused(problems),
        "may_control": may(request, "control"),
        "columns": [{"db_alias": alias, "problem": problems.get(alias, "")} for alias in connections],
        "page": shown,
        "groups": _groups(shown),
        "cards": urgent[:MAX_CARDS],
        "more_cards": len(urgent) - MAX_CARDS if len(urgent) > MAX_CARDS else 0,
        "tabs": _tabs(counts, chosen, sum(_matches(row, {**chosen, "status": ""}) for row in rows)),
        "apps": sorted({row.app_label for row in rows}),
        "chosen": chosen,
        "query": urlencode({name: value for name, value in chosen.items() if value}),
        "may_run": may(request, "run"),
        "is_active": any(cell.state in ("running", "stuck", "queued") for cell in urgent),
        "has_any": bool(rows),
        "is_empty": bool(entries) and not rows,
    }
    return base.render(request, "manage", context)


def _read(*, may_inspect: bool) -> tuple[dict[str, str], dict[str, dict[str, MigrationStatus]]]:
    """Return the databases whose records cannot be read, with the reason, and the entries of the others by key."""
    problems: dict[str, str] = {}
    entries: dict[str, dict[str, MigrationStatus]] = {}
    for db_alias in connections:
        try:
            entries[db_alias] = {entry.key: entry for entry in overview.read(db_alias)}
        except DatabaseError as error:
            problems[db_alias] = _problem(db_alias, error, may_inspect=may_inspect)
    return problems, entries


def _problem(db_alias: str, error: DatabaseError, *, may_inspect: bool) -> str:
    """Return why the records cannot be read. Only then are the tables checked, which takes several queries."""
    try:
        tables.require(db_alias)
    except RecordsUnreadable as unreadable:
        return str(unreadable)
    except DatabaseError:
        pass
    if not may_inspect:
        return gettext("This database cannot be read.")
    return gettext("This database cannot be read: %(error)s") % {"error": text.safe(error)}


def _rows(entries: dict[str, dict[str, MigrationStatus]], problems: dict[str, str], *, may_inspect: bool) -> list[Row]:
    rows = []
    for key in sorted({key for found in entries.values() for key in found}):
        app_label, _, name = key.partition(":")
        cells = [_cell(key, alias, entries.get(alias)) for alias in [*entries, *problems]]
        by_alias = {cell.db_alias: cell for cell in cells}
        entry: Any = next(cell.entry for cell in cells if cell.entry is not None)
        rows.append(
            Row(
                key=key,
                app_label=app_label,
                name=name,
                description=entry.migration.description.partition("\n")[0] if entry.migration else "",
                problem=entry.file_error and (entry.file_error if may_inspect else gettext("Its file cannot be used.")),
                is_gone=all(cell.entry.is_file_gone for cell in cells if cell.entry),
                cells=[by_alias[alias] for alias in connections],
            )
        )
    return rows


def _cell(key: str, db_alias: str, entries: dict[str, MigrationStatus] | None) -> Cell:
    entry = entries.get(key) if entries else None
    if entries is None or entry is None:
        return Cell(key=key, db_alias=db_alias, note=gettext("This database cannot be read"))
    if entry.record is not None:
        state = formatting.badge(entry.record, is_stuck=entry.is_stuck).state
        return Cell(key=key, db_alias=db_alias, entry=entry, state=state)
    if entry.migration is None or not entry.is_allowed:
        note = gettext("Not run") if entry.migration is None else gettext("Not for this database")
        return Cell(key=key, db_alias=db_alias, entry=entry, note=note)
    blocked_by = tuple(need for need in entry.migration.needed_keys if not is_applied(entries.get(need)))
    state = "blocked" if blocked_by else "ready"
    return Cell(key=key, db_alias=db_alias, entry=entry, state=state, blocked_by=blocked_by)


def _matches(row: Row, chosen: dict[str, str]) -> bool:
    return (
        (not chosen["status"] or chosen["status"] in row.states)
        and (not chosen["app"] or chosen["app"] == row.app_label)
        and chosen["q"].lower() in f"{row.key} {row.description}".lower()
    )


def _tabs(counts: Counter[str], chosen: dict[str, str], total: int) -> list[dict[str, Any]]:
    """Return a tab for all migrations, and one for each state that occurs."""
    rest = {name: value for name, value in chosen.items() if value and name != "status"}
    states = [state for state in formatting.STATES if counts[state] or state == chosen["status"]]
    tabs = [{"text": gettext("All"), "count": total, "query": urlencode(rest), "is_chosen": not chosen["status"]}]
    for state in states:
        query = urlencode({**rest, "status": state})
        badge = formatting.Badge(state)
        tabs.append({"badge": badge, "count": counts[state], "query": query, "is_chosen": state == chosen["status"]})
    return tabs


def _groups(rows: Page[Row]) -> list[tuple[str, list[Row]]]:
    """Return the rows grouped by app, in the same order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.app_label, []).append(row)
    return list(groups.items())
