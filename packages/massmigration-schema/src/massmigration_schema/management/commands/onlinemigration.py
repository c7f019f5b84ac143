"""The command `onlinemigration`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from django.core.management import CommandError, call_command
from django.utils import timezone

from massmigration import api
from massmigration.loader import store
from massmigration.management.base import MassMigrationCommand
from massmigration.states import Status
from massmigration_schema import orphans, reports
from massmigration_schema.change import TableChange
from massmigration_schema.reports import PlanReport

VERBS = {
    "plan": "show the cost of every operation, and what is refused",
    "start": "make the new table, copy the rows, and wait for the cutover",
    "status": "show the progress of a change",
    "verify": "compare all rows now",
    "cutover": "put the new table in the place of the old one",
    "revert": "put the old table, with all later writes, back in its place",
    "cleanup": "drop the old table after the cutover",
    "abort": "drop everything that a change has made before the cutover",
}
GRAVE = ("cutover", "revert", "cleanup", "abort")


class Command(MassMigrationCommand):
    """`onlinemigration VERB app_label name`."""

    help = "Changes the definition of a large table online, as a schema migration says."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        for verb, text in VERBS.items():
            one = verbs.add_parser(verb, help=text)
            one.add_argument("app_label")
            one.add_argument("name", help="the schema migration, or the beginning of its name")
            one.add_argument("--database", default=api.DEFAULT)
            if verb in ("plan", "status"):
                one.add_argument("--format", choices=["text", "json"], default="text")
            if verb == "plan":
                one.add_argument("--check", action="store_true", help="exit with 1 if anything is refused")
            if verb == "start":
                one.add_argument("--detach", action="store_true", help="only launch it")
            if verb == "cleanup":
                one.add_argument("--force", action="store_true", help="drop the old table before keep_old has passed")
            if verb in GRAVE:
                one.add_argument("--no-input", action="store_false", dest="interactive", help="do not ask")
        found = verbs.add_parser("orphans", help="list what was left by changes that the ledger does not know")
        found.add_argument("--database", default=api.DEFAULT)
        found.add_argument("--drop", action="store_true", help="drop it")
        found.add_argument("--no-input", action="store_false", dest="interactive", help="do not ask")

    def run_command(self, options: dict[str, Any]) -> None:
        verb, db_alias = options["verb"], options["database"]
        if verb == "orphans":
            self._show_orphans(options)
            return
        if verb == "plan":
            self._show_plan(reports.plan(options["app_label"], options["name"], db_alias), options)
            return
        change = reports.find(options["app_label"], options["name"], db_alias)
        if verb in GRAVE and options["interactive"]:
            self._confirm(change, verb)
        # The changes of Django Online Migration's files are found in the ledger, and not by the loader.
        with store.registered(*() if change.key in store.by_key else (change,)):
            getattr(self, f"_{verb}")(change, db_alias, options)

    def _start(self, change: TableChange, db_alias: str, options: dict[str, Any]) -> None:
        self._watch(change, db_alias, detach=options["detach"])

    def _watch(self, change: TableChange, db_alias: str, *, detach: bool = False) -> None:
        """Run or watch the change until it ends or waits for the cutover."""
        try:
            call_command("massmigrate", change.app_label, change.name, database=db_alias, detach=detach)
        except CommandError as error:
            progress = api.status(change.key, db_alias)
            if progress is None or progress.status is not Status.WAITING:
                raise
            self.write(
                f"{error}\nOr: manage.py onlinemigration cutover {change.app_label} {change.given_name} "
                f"--database {db_alias}"
            )

    def _status(self, change: TableChange, db_alias: str, options: dict[str, Any]) -> None:
        call_command(
            "massmigration", "status", change.app_label, change.name, database=db_alias, format=options["format"]
        )

    def _verify(self, change: TableChange, db_alias: str, options: dict[str, Any]) -> None:
        found = change.verify(db_alias)
        self.write(f"{found} rows differed. Verify again." if found else "All rows are equal.")
        if found:
            sys.exit(1)

    def _cutover(self, change: TableChange, db_alias: str, options: dict[str, Any]) -> None:
        progress = api.status(change.key, db_alias)
        has_failed = progress is not None and progress.status is Status.FAILED
        # Somebody has approved a cutover that has failed: it is tried again.
        if not (has_failed and progress and progress.stage == len(change.get_stages()) - 1):
            api.proceed(change.key, db_alias)
        self._watch(change, db_alias)

    def _revert(self, change: TableChange, db_alias: str, options: dict[str, Any]) -> None:
        self.write(change.revert(db_alias, self.actor))

    def _cleanup(self, change: TableChange, db_alias: str, options: dict[str, Any]) -> None:
        due = change.old_table_is_due_at(db_alias)
        if timezone.now() < due and not options["force"] and not change.is_reverted(db_alias):
            raise CommandError(f"The old table is kept until {due:%Y-%m-%d %H:%M}. To drop it now, add --force.")
        self.write(change.clean_up(db_alias, self.actor))

    def _abort(self, change: TableChange, db_alias: str, options: dict[str, Any]) -> None:
        self.write(change.abort(db_alias, self.actor))

    @property
    def actor(self) -> str:
        """The actor for the history."""
        return "command:onlinemigration"

    def _confirm(self, change: TableChange, verb: str) -> None:
        """Ask for the name of the migration, typed."""
        try:
            answer = input(f"To {VERBS[verb]}, type {change.given_name}: ")
        except EOFError:
            raise CommandError("Confirmation required, but there is no terminal. Nothing was changed.") from None
        if answer.strip() != change.given_name:
            raise CommandError("Nothing was changed.")

    def _show_orphans(self, options: dict[str, Any]) -> None:
        found = orphans.of_database(options["database"])
        for orphan in found:
            self.write(str(orphan))
        if found and not options["drop"]:
            sys.exit(1)
        if found and options["interactive"] and input("To drop all of them, type drop: ").strip() != "drop":
            raise CommandError("Nothing was changed.")
        orphans.drop(found, options["database"])

    def _show_plan(self, report: PlanReport, options: dict[str, Any]) -> None:
        if options["format"] == "json":
            self.write(json.dumps(report.to_json(), indent=2))
        else:
            self.write(report.to_text())
        if options["check"] and report.refusals:
            sys.exit(1)
