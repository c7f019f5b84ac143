"""The list: every migration on every database."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.db import DatabaseError, connections
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from massmigration import overview, tables
from massmigration.exceptions import RecordsUnreadable
from massmigration.overview import Entry
from massmigration.states import Status
from massmigration.views import frame, words
from massmigration.views.access import may, page

PAGE_SIZE = 100
MAX_CARDS = 12

URGENT = ("failed", "stalled", "running", "queued", "paused")
"""What is shown again above the list."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A migration on one database."""

    key: str
    db_alias: str
    state: str = ""
    """One of `words.STATES`; empty: not for this database, or not to be read there."""

    note: Any = ""
    """Why there is no state."""

    entry: Entry | None = None
    waits_for: tuple[str, ...] = ()

    @property
    def badge(self) -> words.Badge:
        return words.Badge(self.state)

    @property
    def name(self) -> str:
        return self.key.partition(":")[2]

    @property
    def rows(self) -> str:
        return words.rows(self.entry.reading) if self.entry and self.entry.reading else ""

    @property
    def percent(self) -> str:
        return words.percent(self.entry.reading) if self.entry and self.entry.reading else ""

    @property
    def failed(self) -> str:
        reading = self.entry.reading if self.entry else None
        return words.failed(reading.failed) if reading and reading.failed else ""

    @property
    def is_open(self) -> bool:
        """Is it worth a bar?"""
        return self.state in ("running", "stalled", "paused", "failed", "cancelled") and bool(self.percent)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A migration on every database."""

    key: str
    description: str
    problem: str
    is_gone: bool
    cells: list[Cell]

    @property
    def app_label(self) -> str:
        return self.key.partition(":")[0]

    @property
    def name(self) -> str:
        return self.key.partition(":")[2]

    @property
    def states(self) -> set[str]:
        found = {cell.state for cell in self.cells if cell.state}
        return found | ({"broken"} if self.problem else set()) | ({"gone"} if self.is_gone else set())


@page()
def manage(request: HttpRequest) -> HttpResponse:
    """Filtered by status, app and text, a hundred a page."""
    problems, entries = _read()
    rows = _rows(entries, problems)
    chosen = {name: request.GET.get(name, "").strip() for name in ("status", "app", "q")}
    found = [row for row in rows if _matches(row, chosen)]
    counts = Counter(state for row in rows if _matches(row, {**chosen, "status": ""}) for state in row.states)
    shown = Paginator(found, PAGE_SIZE).get_page(request.GET.get("page"))
    urgent = [cell for row in rows for cell in row.cells if cell.state in URGENT]
    urgent.sort(key=lambda cell: URGENT.index(cell.state))
    context = {
        "title": gettext("Mass migrations"),
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
        "is_active": any(cell.state in ("running", "stalled", "queued") for cell in urgent),
        "has_any": bool(rows),
    }
    return frame.render(request, "manage", context)


def _read() -> tuple[dict[str, str], dict[str, dict[str, Entry]]]:
    """By database: what keeps its records from being read, or its entries by key."""
    problems: dict[str, str] = {}
    entries: dict[str, dict[str, Entry]] = {}
    for db_alias in connections:
        try:
            tables.check(db_alias)
            entries[db_alias] = {entry.key: entry for entry in overview.read(db_alias)}
        except RecordsUnreadable as error:
            problems[db_alias] = str(error)
        except DatabaseError as error:
            problems[db_alias] = gettext("This database does not answer: %(error)s") % {"error": error}
    return problems, entries


def _rows(entries: dict[str, dict[str, Entry]], problems: dict[str, str]) -> list[Row]:
    rows = []
    for key in sorted({key for found in entries.values() for key in found}):
        cells = [_cell(key, alias, entries.get(alias)) for alias in [*entries, *problems]]
        by_alias = {cell.db_alias: cell for cell in cells}
        entry: Any = next(cell.entry for cell in cells if cell.entry is not None)
        rows.append(
            Row(
                key=key,
                description=entry.migration.description.partition("\n")[0] if entry.migration else "",
                problem=entry.file_error,
                is_gone=all(cell.entry.is_file_gone for cell in cells if cell.entry),
                cells=[by_alias[alias] for alias in connections],
            )
        )
    return rows


def _cell(key: str, db_alias: str, entries: dict[str, Entry] | None) -> Cell:
    entry = entries.get(key) if entries else None
    if entries is None or entry is None:
        return Cell(key=key, db_alias=db_alias, note=gettext("Cannot be read on this database"))
    if entry.record is not None:
        state = words.badge(entry.record, is_stalled=entry.is_stalled).state
        return Cell(key=key, db_alias=db_alias, entry=entry, state=state)
    if entry.migration is None or not entry.is_allowed:
        note = gettext("Not run") if entry.migration is None else gettext("Not for this database")
        return Cell(key=key, db_alias=db_alias, entry=entry, note=note)
    waits = tuple(need for need in entry.migration.needed_keys if not _is_applied(entries.get(need)))
    state = "blocked" if waits else "ready"
    return Cell(key=key, db_alias=db_alias, entry=entry, state=state, waits_for=waits)


def _is_applied(entry: Entry | None) -> bool:
    return entry is not None and entry.status is Status.APPLIED


def _matches(row: Row, chosen: dict[str, str]) -> bool:
    return (
        (not chosen["status"] or chosen["status"] in row.states)
        and (not chosen["app"] or chosen["app"] == row.app_label)
        and chosen["q"].lower() in f"{row.key} {row.description}".lower()
    )


def _tabs(counts: Counter[str], chosen: dict[str, str], total: int) -> list[dict[str, Any]]:
    """One for each state that there is, after one for all."""
    rest = {name: value for name, value in chosen.items() if value and name != "status"}
    states = [state for state in words.STATES if counts[state] or state == chosen["status"]]
    tabs = [{"text": gettext("All"), "count": total, "query": urlencode(rest), "is_chosen": not chosen["status"]}]
    for state in states:
        query = urlencode({**rest, "status": state})
        badge = words.Badge(state)
        tabs.append({"badge": badge, "count": counts[state], "query": query, "is_chosen": state == chosen["status"]})
    return tabs


def _groups(rows: Page[Row]) -> list[tuple[str, list[Row]]]:
    """The rows by app, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.app_label, []).append(row)
    return list(groups.items())
