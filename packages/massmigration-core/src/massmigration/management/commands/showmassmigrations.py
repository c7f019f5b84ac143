"""The command that shows mass migrations, as `showmigrations` shows schema migrations."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from django.core.management.base import CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from massmigration import overview
from massmigration.loader import store
from massmigration.management.base import MassMigrationCommand
from massmigration.management.output import FIELDS, LEGEND, SAMPLE, as_json, more, status_line
from massmigration.management.selection import check_app
from massmigration.overview import MigrationStatus
from massmigration.recorder import tables
from massmigration.states import Status


class Command(MassMigrationCommand):
    """`showmassmigrations [app_label ...]`."""

    requires_system_checks: list[str] = []  # the command also shows files that cannot be used
    help = "Shows all mass migrations of a project and their progress."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = LEGEND + FIELDS
        parser.add_argument("app_label", nargs="*", help="App labels of applications to limit the output to.")
        parser.add_argument(
            "--database",
            default=DEFAULT_DB_ALIAS,
            choices=tuple(connections),
            help='The database to read. Defaults to "default".',
        )
        orders = parser.add_mutually_exclusive_group()
        orders.add_argument(
            "--list", "-l", action="store_const", dest="order", const="list", help="Group by app. This is the default."
        )
        orders.add_argument(
            "--plan",
            "-p",
            action="store_const",
            dest="order",
            const="plan",
            help="Show the order in which migrations run, including their dependencies. "
            "With verbosity 2 or above, list the dependencies of each.",
        )
        parser.add_argument("--format", choices=("text", "json"), default="text", help='Defaults to "text".')
        parser.set_defaults(order="list")

    def run_command(self, options: dict[str, Any]) -> None:
        labels, db_alias = options["app_label"], options["database"]
        for app_label in labels:
            check_app(app_label)
        tables.require(db_alias)
        entries = overview.read(db_alias, sample=SAMPLE)
        is_plan = options["order"] == "plan"
        chosen = _planned(entries, labels) if is_plan else _listed(entries, labels)
        if options["format"] == "json":
            self.write(json.dumps([as_json(entry) for entry in chosen], indent=2))
        elif is_plan:
            self._show_plan(chosen, options["verbosity"])
        else:
            self._show_list(chosen, labels)

    def _show_list(self, entries: Sequence[MigrationStatus], labels: Sequence[str]) -> None:
        groups = {app_label: list(group) for app_label, group in groupby(entries, _app_label)}
        for app_label in sorted({*groups, *labels}):
            self.write(self.style.MIGRATE_LABEL(app_label))
            for entry in groups.get(app_label, ()):
                self.write(f" {status_line(entry, entry.key.partition(':')[2])}")
                if hint := more(entry):
                    self.write(f"     {'to continue' if entry.status is Status.WAITING else 'more'}: {hint}")
            if app_label not in groups:
                self.write(" (no mass migrations)")
        if not groups and not labels:
            self.write("(no mass migrations)")

    def _show_plan(self, entries: Sequence[MigrationStatus], verbosity: int) -> None:
        for entry in entries:
            dependencies = entry.migration.dependencies if entry.migration and verbosity > 1 else ()
            names = ", ".join(f"{app_label}:{name}" for app_label, name in dependencies)
            self.write(status_line(entry, entry.key) + (f"  ... ({names})" if names else ""))
        if not entries:
            self.write("(no mass migrations)")


def _app_label(entry: MigrationStatus) -> str:
    return entry.key.partition(":")[0]


def _listed(entries: Sequence[MigrationStatus], labels: Collection[str]) -> list[MigrationStatus]:
    return [entry for entry in entries if not labels or _app_label(entry) in labels]


def _planned(entries: Sequence[MigrationStatus], labels: Collection[str]) -> list[MigrationStatus]:
    """Return the migrations in running order, then those whose files are missing or cannot be used."""
    wanted: set[str] = set()
    for migration in reversed(store.all):
        if not labels or migration.app_label in labels or migration.key in wanted:
            wanted |= {migration.key, *(f"{app_label}:{name}" for app_label, name in migration.dependencies)}
    by_key = {entry.key: entry for entry in entries}
    ordered = [by_key[migration.key] for migration in store.all if migration.key in wanted]
    return ordered + [entry for entry in _listed(entries, labels) if entry.migration is None]
