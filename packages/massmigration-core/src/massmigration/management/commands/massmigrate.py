"""Runs mass migrations, as `migrate` runs schema migrations."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from massmigration import actors, api
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import MassMigrationError
from massmigration.loader import store
from massmigration.management import processes
from massmigration.management.bar import Bar
from massmigration.management.choosing import choose
from massmigration.management.foreground import ends_with_process
from massmigration.management.interrupts import Interrupts
from massmigration.management.running import Options, Run
from massmigration.models import MigrationRecord
from massmigration.states import ACTIVE, Status

EXIT_CODES = """
exit codes: 0 done; 1 error; 2 unknown app; 3 finished with failed objects; 4 paused or cancelled, resumable;
130 after Ctrl-C, which stops at the end of a batch; a second Ctrl-C exits at once.
"""


class Command(BaseCommand):
    """`massmigrate [app_label [name]]`."""

    help = "Runs the mass migrations that are not applied, in the order of their dependencies."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EXIT_CODES
        parser.add_argument("app_label", nargs="?", help="App label, or a migration's key: app_label:name.")
        parser.add_argument("name", nargs="?", help="Name of a migration, or the beginning of one.")
        parser.add_argument(
            "--database",
            choices=tuple(connections),
            help='The database to migrate. Defaults to "default"; to all with --recover.',
        )
        parser.add_argument("--local", action="store_true", help="Run in this process, whatever the backend.")
        parser.add_argument(
            "--workers", type=_positive, default=1, metavar="N", help="Processes to run in, this one included."
        )
        parser.add_argument("--detach", action="store_true", help="Launch, and return at once.")
        parser.add_argument("--recover", action="store_true", help="Send whatever is stuck again.")
        # For the further processes of --workers.
        parser.add_argument("--attach", action="store_true", help=argparse.SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        self._bar = Bar(options.get("stderr") or sys.stderr, is_quiet=options["verbosity"] == 0)
        self._is_local = options["local"]
        try:
            with actors.acting(f"command:{_user()}"):
                self._handle(options)
        except MassMigrationError as error:
            raise CommandError(str(error)) from error

    def _handle(self, options: dict[str, Any]) -> None:
        if options["recover"]:
            self._recover([options["database"]] if options["database"] else list(connections), options)
            return
        db_alias = options["database"] or DEFAULT_DB_ALIAS
        migrations, is_named = choose(options["app_label"], options["name"])
        _check_tables(db_alias)
        if options["attach"]:
            processes.attach(migrations[0].key, db_alias)
            return
        applied = MigrationRecord.objects.using(db_alias).filter(status=Status.APPLIED).values_list("key", flat=True)
        if not is_named and {migration.key for migration in migrations} <= set(applied):
            self._tell("No mass migrations to run.")
            return
        self._run([(migration, db_alias) for migration in migrations], options, is_named=is_named)

    def _run(self, wanted: list[tuple[BaseMigration, str]], options: dict[str, Any], *, is_named: bool) -> None:
        with Interrupts() as interrupts:
            for migration, db_alias in wanted:
                if interrupts.requested:
                    raise SystemExit(interrupts.exit_code)
                own = Options(
                    db_alias=db_alias,
                    is_local=self._is_local,
                    workers=self._workers(migration, db_alias, options["workers"]),
                    is_detached=options["detach"],
                )
                run = Run(migration, own, bar=self._bar, interrupts=interrupts, tell=self._tell)
                run.run(is_named=is_named)

    def _workers(self, migration: BaseMigration, db_alias: str, wanted: int) -> int:
        """As many as make sense, with a notice when that is fewer than wanted."""
        if wanted == 1:
            return 1
        if not self._runs_here(migration):
            reason = "runs in the workers of its backend; --workers is for runs in this process, as with --local"
        elif connections[db_alias].vendor == "sqlite":
            reason = "runs in one process: SQLite has one writer at a time"
        elif not processes.can_start():
            reason = "runs in one process: others would not find the settings, for DJANGO_SETTINGS_MODULE is not set"
        else:
            return wanted
        self._bar.note(f"{migration.key} {reason}.")
        return 1

    def _recover(self, aliases: list[str], options: dict[str, Any]) -> None:
        if len(aliases) == 1:
            _check_tables(aliases[0])
        wanted = []
        for db_alias in filter(_has_tables, aliases):
            count = api.heal(db_alias)
            self._tell(f"Database {db_alias!r}: {count} stuck {'job was' if count == 1 else 'jobs were'} sent again.")
            active = MigrationRecord.objects.using(db_alias).filter(status__in=ACTIVE, is_managed=True)
            keys = set(active.values_list("key", flat=True))
            wanted += [(each, db_alias) for each in store.all if each.key in keys and self._runs_here(each)]
        self._run(wanted, options, is_named=True)

    def _runs_here(self, migration: BaseMigration) -> bool:
        return self._is_local or ends_with_process(migration)

    def _tell(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for this user id, as in some containers
        return str(os.getuid()) if hasattr(os, "getuid") else "unknown"


def _has_tables(db_alias: str) -> bool:
    return MigrationRecord._meta.db_table in connections[db_alias].introspection.table_names()


def _check_tables(db_alias: str) -> None:
    if not _has_tables(db_alias):
        raise CommandError(
            f"Database {db_alias!r} has no tables for mass migrations. Run: manage.py migrate --database {db_alias}"
        )
