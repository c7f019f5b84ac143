"""Gives an operator's verb to one mass migration."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from massmigration import overview, tables
from massmigration.loader import store
from massmigration.management.choosing import choose_key
from massmigration.management.command import MassMigrationCommand, confirm, confirm_launch
from massmigration.management.describing import describe
from massmigration.management.foreground import ends_with_process
from massmigration.management.series import Series
from massmigration.management.showing import SAMPLE
from massmigration.models import MigrationRecord
from massmigration.verbs import VERBS, Verb

OTHERS = {
    "heal": "send whatever is stuck again, as massmigrate --recover does; takes no migration",
    "status": "show its shards, failed objects and last events",
}


class Command(MassMigrationCommand):
    """`massmigration verb app_label name`."""

    requires_system_checks: list[str] = []  # a file that cannot be used must not keep anybody from the others
    help = "Controls one mass migration: pause, resume, cancel, retry and so on."

    def add_arguments(self, parser: CommandParser) -> None:
        told = OTHERS | {verb.name: verb.description for verb in VERBS.values()}
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = "verbs:\n" + "\n".join(f"  {name:8} {told[name]}" for name in [*VERBS, *OTHERS])
        parser.epilog += (
            "\n\nWhere jobs run in the process that sends them, launch, resume, retry and restart stay in the\n"
            "foreground until the migration ends, as massmigrate does."
        )
        parser.add_argument("verb", choices=(*VERBS, *OTHERS), metavar="verb", help="See below.")
        parser.add_argument("app_label", nargs="?", help="App label, or a migration's key: app_label:name.")
        parser.add_argument("name", nargs="?", help="Name of a migration, or the beginning of one.")
        parser.add_argument(
            "--database",
            choices=tuple(connections),
            help='The database it is about. Defaults to "default"; to all with heal.',
        )
        parser.add_argument(
            "--no-input", "--noinput", action="store_false", dest="interactive", help="Do not ask for confirmation."
        )

    def obey(self, options: dict[str, Any]) -> None:
        if options["verb"] == "heal":
            self._heal(options)
            return
        db_alias = options["database"] or DEFAULT_DB_ALIAS
        tables.check(db_alias)
        recorded = MigrationRecord.objects.using(db_alias).values_list("key", flat=True)
        key = choose_key(options["app_label"], options["name"], list(recorded))
        if options["verb"] == "status":
            entries = overview.read(db_alias, sample=SAMPLE)
            for line in describe(next(entry for entry in entries if entry.key == key)):
                self.tell(line)
            return
        verb = VERBS[options["verb"]]
        if verb.is_grave:
            question = f"{verb.name} {key} on database {db_alias!r}: {verb.description}.\nAre you sure?"
            confirm(question, is_interactive=options["interactive"])
        elif verb.name == "launch" and key in store.by_key and key not in recorded:
            confirm_launch([store.get(key)], db_alias, is_interactive=options["interactive"])
        self._give(verb, key, db_alias)

    def _heal(self, options: dict[str, Any]) -> None:
        if options["app_label"]:
            raise CommandError(f"heal is for whatever is stuck; leave out {options['app_label']!r}.")
        series = Series(bar=self.bar, tell=self.tell)
        series.recover([options["database"]] if options["database"] else list(connections))

    def _give(self, verb: Verb, key: str, db_alias: str) -> None:
        migration = store.by_key.get(key)
        if verb.sends and migration is not None and ends_with_process(migration):
            series = Series(bar=self.bar, tell=self.tell)
            series.run([(migration, db_alias)], is_named=True, verb=verb.call)
            return
        verb.call(key, db_alias)
        where = "; it runs in the workers of its backend" if verb.sends else ""
        self.tell(f"{key} {verb.done}{where}.")
