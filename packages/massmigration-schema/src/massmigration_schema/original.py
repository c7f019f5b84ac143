"""The functions of Django Online Migration, for its files: only their import line changes."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from django.core.management import CommandError, call_command

from massmigration import api
from massmigration.loader import store
from massmigration.states import Status
from massmigration_schema import ledger
from massmigration_schema.change import TableChange
from massmigration_schema.derivation import Derivation
from massmigration_schema.exceptions import Refused
from massmigration_schema.options import Online
from massmigration_schema.plan import ChangePlan
from massmigration_schema.table import OnlineTable
from massmigration_schema.trial import derivation_of

APP = "massmigration_schema"
PREFIX = "migrate_"


def change_table(
    db_alias: str,
    table: str,
    dest_sql: str,
    dest_indexes: Sequence[str],
    origin_columns: Sequence[str],
    dest_columns: Sequence[str],
    *,
    renames: Mapping[str, str] | None = None,
    start: int | None = None,
    limit: int | None = None,
    chunk_size: int | None = None,
    throttle: float | None = None,
) -> None:
    """Make the new table, copy the rows in this process, and compare them. `finish_migration` swaps the tables.

    `start`, `limit`: copy only the rows with keys greater than `start`, up to `limit`. `restart_copy` does the rest.
    """
    options: dict[str, Any] = {} if chunk_size is None else {"max_batch_size": chunk_size}
    if throttle is not None:
        options["throttle"] = (lambda batch: dt.timedelta(seconds=throttle),)
    attributes = {
        "table": table,
        "definition": dest_sql,
        "indexes": list(dest_indexes),
        "origin_columns": origin_columns,
        "dest_columns": dest_columns,
        "renames": dict(renames or {}),
        "online": Online(**options),
        "is_original": True,
    }
    content = repr((table, dest_sql, dest_indexes, sorted((renames or {}).items())))
    name = f"{PREFIX}{table}_{hashlib.sha1(content.encode()).hexdigest()[:6]}"  # a name, not a secret
    change = type("OriginalTable", (_NamedByContent, OnlineTable), attributes)(APP, name)
    begun = ledger.get(db_alias, change.key)
    if begun is not None and begun.is_swapped:
        raise Refused("online.swapped", f"Table {table!r} was changed in this way at {begun.swapped_at}.")
    _copy(change, db_alias, start, limit)


def restart_copy(
    db_alias: str,
    table: str,
    origin_columns: Sequence[str],
    dest_columns: Sequence[str],
    *,
    renames: Mapping[str, str] | None = None,
    start: int | None = None,
    limit: int | None = None,
) -> None:
    """Continue what `change_table` has begun, or copy only the rows of a range of keys."""
    change = begun(db_alias, table)
    pairs = {name: name for name in set(origin_columns) & set(dest_columns)}
    pairs.update({new: old for old, new in (renames or {}).items()})
    known = {column.name: column.source for column in change.plan(db_alias).columns}
    if pairs != known:
        raise Refused("online.columns", f"The copy of table {table!r} began with the columns {known}; found {pairs}.")
    _copy(change, db_alias, start, limit)


def finish_migration(db_alias: str, table: str) -> None:
    """Put the new table in the place of the old one, which is kept as `archive_<table>`."""
    change = begun(db_alias, table)
    with store.registered(change):
        api.proceed(change.key, db_alias)
        _run(change, db_alias)


class _NamedByContent(TableChange):
    """A change whose name stands for its content, so that its code is the package's."""

    @property
    def source_hash(self) -> str:
        return version("massmigration-schema")


class BegunTable(_NamedByContent):
    """A change that has begun, of which only the stored plan is known."""

    online = Online()

    def plan(self, db_alias: str) -> ChangePlan:
        """Return the stored plan."""
        return ChangePlan.from_json(ledger.require(db_alias, self.key).plan)

    def derivation(self, db_alias: str) -> Derivation:
        return derivation_of(self.plan(db_alias), self.app_label, self.name)


def begun(db_alias: str, table: str) -> BegunTable:
    """Return the change of a table that `change_table` has begun. Raise `Refused` if there is none."""
    key = ledger.busy_with(db_alias, table) or ""
    app_label, _, name = key.partition(":")
    if app_label != APP or not name.startswith(PREFIX):
        found = f"it is being changed by {key!r}" if key else "it has none"
        raise Refused("online.not_started", f"Table {table!r} has no change that change_table() has begun: {found}.")
    return BegunTable(app_label, name)


def listed(app_label: str, name: str, db_alias: str) -> list[TableChange]:
    """Return the changes that `change_table` has begun, with names that begin so."""
    if app_label != APP:
        return []
    names = [key.partition(":")[2] for key in ledger.keys(db_alias, f"{APP}:{name}")]
    return [BegunTable(APP, each) for each in names if each.startswith(PREFIX)]


def _copy(change: TableChange, db_alias: str, start: int | None, limit: int | None) -> None:
    with store.registered(change):
        if start is None and limit is None:
            _run(change, db_alias)
        else:
            change.copy_range(db_alias, start, limit)


def _run(change: TableChange, db_alias: str) -> None:
    """Run the change in this process until it waits or is applied."""
    try:
        call_command("massmigrate", change.app_label, change.name, database=db_alias, local=True, interactive=False)
    except CommandError:
        progress = api.status(change.key, db_alias)
        if progress is None or progress.status is not Status.WAITING:
            raise
