"""The command that performs an operator action on one mass migration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from massmigration import api, overview, progress
from massmigration.definitions.stages import question_of
from massmigration.loader import store
from massmigration.management.base import MassMigrationCommand, confirm, confirm_launch
from massmigration.management.output import SAMPLE, as_json, detail_lines, details_as_json
from massmigration.management.pace import add_pace_options, flag, given_pace
from massmigration.management.runner import RunSeries
from massmigration.management.selection import select_key
from massmigration.management.workers import ends_with_process
from massmigration.models import MigrationRecord
from massmigration.overview import MigrationStatus
from massmigration.pace import SETTABLE, shown
from massmigration.recorder import tables
from massmigration.states import Status
from massmigration.verbs import VERBS, Verb

OTHERS = {
    "pace": "show how fast a migration may run, or change it with the options below, without a deployment",
    "pause-all": "start no batch of any migration, until resume-all; takes no migration",
    "resume-all": "end pause-all; takes no migration",
    "recover": "send stuck jobs again, as massmigrate --recover does; takes no migration",
    "status": "show the shards, failed objects and last events of a migration",
}


WITHOUT_MIGRATION = ("recover", "pause-all", "resume-all")


class Command(MassMigrationCommand):
    """`massmigration action app_label name`."""

    requires_system_checks: list[str] = []  # a file that cannot be used does not affect other migrations
    help = "Controls one mass migration: launch, pause, resume, cancel, retry and other actions."

    def add_arguments(self, parser: CommandParser) -> None:
        descriptions = OTHERS | {verb.name: verb.description for verb in VERBS.values()}
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = "actions:\n" + "\n".join(f"  {name:10} {descriptions[name]}" for name in [*VERBS, *OTHERS])
        parser.epilog += "\n  A migration can define more actions; status lists them."
        parser.epilog += (
            "\n\nIf the backend runs jobs in the process that sends them, launch, resume, retry and restart run the\n"
            "migration in the foreground until it ends, as massmigrate does."
        )
        parser.add_argument("action", help="The action; see below.")
        parser.add_argument("app_label", nargs="?", help="App label, or a migration's key: app_label:name.")
        parser.add_argument("name", nargs="?", help="Name of a migration, or the beginning of one.")
        parser.add_argument(
            "--database",
            choices=tuple(connections),
            help='The database to act on. Defaults to "default"; with recover, pause-all and resume-all, to all.',
        )
        parser.add_argument(
            "--format", choices=("text", "json"), default="text", help='With status: "text", the default, or "json".'
        )
        parser.add_argument(
            "--no-input", "--noinput", action="store_false", dest="interactive", help="Do not ask for confirmation."
        )

        add_pace_options(parser)

    def run_command(self, options: dict[str, Any]) -> None:
        changes = given_pace(options)
        if changes and options["action"] != "pace":
            given = flag(next(iter(changes)))
            raise CommandError(f"{given} is an option of the action pace, not of {options['action']}.")
        if options["action"] in WITHOUT_MIGRATION:
            if options["app_label"]:
                raise CommandError(f"{options['action']} works on all migrations; omit {options['app_label']!r}.")
            self._act_on_all(options["action"], [options["database"]] if options["database"] else list(connections))
            return
        db_alias = options["database"] or DEFAULT_DB_ALIAS
        tables.require(db_alias)
        recorded = MigrationRecord.objects.using(db_alias).values_list("key", flat=True)
        try:
            key = select_key(options["app_label"], options["name"], list(recorded))
        except CommandError as error:
            if options["action"] in (*VERBS, *OTHERS):
                raise
            known = ", ".join([*VERBS, *OTHERS])
            raise CommandError(
                f"Found the action {options['action']!r}; allowed: {known}, and the actions that a migration defines "
                f"itself. {error}"
            ) from None
        if options["action"] == "status":
            entries = overview.read(db_alias, sample=SAMPLE)
            self._show(next(entry for entry in entries if entry.key == key), options["format"])
            return
        if options["action"] == "pace":
            self._pace(key, db_alias, changes, options["format"])
            return
        if options["action"] not in VERBS:
            self._perform_own(options["action"], key, db_alias, is_interactive=options["interactive"])
            return
        verb = VERBS[options["action"]]
        call = verb.call
        if verb.name == "proceed":
            call = self._confirmed_proceed(key, db_alias, is_interactive=options["interactive"])
        elif verb.is_irreversible:
            question = f"{verb.name} {key} on database {db_alias!r}: {verb.description}.\nAre you sure?"
            confirm(question, is_interactive=options["interactive"])
        elif verb.name == "launch" and key in store.by_key and key not in recorded:
            confirm_launch([store.get(key)], db_alias, is_interactive=options["interactive"])
        self._perform(verb, call, key, db_alias)

    def _show(self, entry: MigrationStatus, format: str) -> None:
        if format == "json":
            self.write(json.dumps({**as_json(entry), **details_as_json(entry)}, indent=2))
            return
        for line in detail_lines(entry):
            self.write(line)

    def _perform_own(self, name: str, key: str, db_alias: str, *, is_interactive: bool) -> None:
        """Perform an action that the migration defines itself."""
        found = {action.name: action for action in api.migration_actions(key, db_alias)}
        if name not in found:
            known = ", ".join([*VERBS, *OTHERS, *found])
            raise CommandError(f"{key} has no action {name!r} now; it has: {known}.")
        action = found[name]
        if action.is_irreversible:
            question = f"{name} {key} on database {db_alias!r}: {action.description}\nAre you sure?"
            confirm(question, is_interactive=is_interactive)
        self.write(api.perform_action(name, key, db_alias) or f"{key}: {name} done.")

    def _confirmed_proceed(self, key: str, db_alias: str, *, is_interactive: bool) -> Callable[..., None]:
        """Ask the question of a waiting migration. Return the action for the stage that has asked it."""
        current = progress.read(key, db_alias)
        if current is None or current.status is not Status.WAITING:
            return api.proceed  # which says what it is instead
        question = question_of(store.by_key.get(key), current.stage)
        question = f"proceed with {key} on database {db_alias!r}: {question}\nAre you sure?"
        confirm(question, is_interactive=is_interactive)
        return partial(api.proceed, stage=current.stage)

    def _act_on_all(self, action: str, db_aliases: list[str]) -> None:
        if action == "recover":
            RunSeries(bar=self.bar, write=self.write).recover(db_aliases)
            return
        for db_alias in db_aliases:
            if len(db_aliases) > 1 and not tables.exist(db_alias):
                continue
            if action == "pause-all":
                has_changed = api.pause_all(db_alias)
                done = "everything is paused. Batches that have started will still finish. To continue: resume-all"
                known = "everything was paused already"
            else:
                has_changed, known = api.resume_all(db_alias), "nothing was paused by pause-all"
                done = "no longer paused by pause-all; the migrations continue in the workers of their backends"
            self.write(f"Database {db_alias!r}: {done if has_changed else known}.")

    def _pace(self, key: str, db_alias: str, changes: dict[str, Any], format: str) -> None:
        """Show the pace of a migration, after the changes, if there are any."""
        migration = store.by_key.get(key)
        if changes:
            sends = migration is not None and not ends_with_process(migration)
            found = api.set_pace(key, db_alias, sends=sends, **changes)
        else:
            found = api.get_pace(key, db_alias)
        if format == "json":
            self.write(json.dumps(found.as_json(), indent=2))
            return
        self.write(f"{key} on database {db_alias!r}:")
        for name in SETTABLE:
            self.write(f"    {name.replace('_', '-')}: {shown(name, getattr(found, name))}")
        for name in ("stop_at_rows", "stop_at"):
            if getattr(found, name) is not None:
                self.write(f"    {name.replace('_', '-')}: {shown(name, getattr(found, name))}")

    def _perform(self, verb: Verb, call: Callable[..., None], key: str, db_alias: str) -> None:
        migration = store.by_key.get(key)
        if verb.continues_work and migration is not None and ends_with_process(migration):
            series = RunSeries(bar=self.bar, write=self.write)
            series.run([(migration, db_alias)], is_named=True, verb=call)
            return
        call(key, db_alias)
        where = "; it runs in the workers of its backend" if verb.continues_work else ""
        self.write(f"{key} {verb.participle}{where}.")
