"""Runs mass migrations, as `migrate` runs schema migrations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from massmigration import api, dryrun, overview, required_by, tables
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadMigrationFile
from massmigration.management import flags, planning, processes, trying, verifying
from massmigration.management.choosing import broken, choose
from massmigration.management.command import MassMigrationCommand, confirm, confirm_launch, positive
from massmigration.management.running import EXIT_FAILED_OBJECTS
from massmigration.management.series import Series
from massmigration.models import MigrationRecord
from massmigration.states import Status

EXIT_CODES = """
exit codes: 0 done; 1 error, or --check or --verify found something; 2 unknown app; 3 finished with failed objects;
4 paused or cancelled, resumable; 130 after Ctrl-C, which stops at the end of a batch; a second Ctrl-C exits at once.
"""


class Command(MassMigrationCommand):
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
        _add_modes(parser)
        parser.add_argument("--local", action="store_true", help="Run in this process, whatever the backend.")
        parser.add_argument(
            "--workers", type=positive, default=1, metavar="N", help="Processes to run in, this one included."
        )
        parser.add_argument("--detach", action="store_true", help="Launch, and return at once.")
        parser.add_argument(
            "--no-input", "--noinput", action="store_false", dest="interactive", help="Do not ask for confirmation."
        )
        # For the further processes of --workers.
        parser.add_argument("--attach", action="store_true", help=argparse.SUPPRESS)

    def obey(self, options: dict[str, Any]) -> None:
        flags.check(options)
        self._broken: list[BadMigrationFile] = []
        self._series = Series(
            bar=self.bar,
            tell=self.tell,
            is_local=options["local"],
            workers=options["workers"],
            is_detached=options["detach"],
        )
        if options["recover"]:
            self._series.recover([options["database"]] if options["database"] else list(connections))
            return
        db_alias = options["database"] or DEFAULT_DB_ALIAS
        migrations, is_named = choose(options["app_label"], options["name"])
        tables.check(db_alias)
        if not is_named:
            self._note_broken(options["app_label"], db_alias)
        if options["attach"]:
            processes.attach(migrations[0].key, db_alias)
        elif options["dry_run"]:
            self._try(migrations[0].key, db_alias, options["dry_run"])
        else:
            self._migrate(migrations, db_alias, options, is_named=is_named)
        if self._broken and (options["check"] or not options["plan"]):
            raise CommandError("\n".join(map(str, self._broken)))

    def _note_broken(self, app_label: str | None, db_alias: str) -> None:
        """Files that cannot be used keep nobody from the others. Those that are applied do not matter any more."""
        found = broken(app_label)
        applied = MigrationRecord.objects.using(db_alias).filter(key__in=found, status=Status.APPLIED)
        done = set(applied.values_list("key", flat=True))
        self._broken = [error for key, error in found.items() if key not in done]
        for error in self._broken:
            self.bar.note(f"Left out: {error}")

    def _migrate(
        self, migrations: Sequence[BaseMigration], db_alias: str, options: dict[str, Any], *, is_named: bool
    ) -> None:
        entries = {entry.key: entry for entry in overview.read(db_alias)}
        left = [migration for migration in migrations if planning.is_outstanding(migration, entries)]
        if options["verify"]:
            self._verify(migrations, entries, db_alias)
        elif options["plan"] or options["check"]:
            self._plan(left, entries, options, is_named=is_named)
        elif options["fake"]:
            self._fake(migrations if is_named else left, db_alias, options, is_named=is_named)
        elif options["retry_failed"]:
            failed = [each for each in left if entries[each.key].status is Status.FAILED]
            if not failed and not is_named:
                self.tell("No mass migration has failed.")
            wanted = [(each, db_alias) for each in (migrations if is_named else failed)]
            self._series.run(wanted, is_named=is_named, verb=api.retry)
        elif is_named or left:
            chosen = migrations if is_named else left
            new = [each for each in chosen if entries[each.key].record is None]
            confirm_launch(new, db_alias, is_interactive=options["interactive"])
            self._series.run([(each, db_alias) for each in chosen], is_named=is_named)
        else:
            self.tell("No mass migrations to run.")

    def _plan(
        self,
        left: Sequence[BaseMigration],
        entries: dict[str, overview.Entry],
        options: dict[str, Any],
        *,
        is_named: bool,
    ) -> None:
        if not left:
            self.tell("No mass migrations to run.")
            return
        self.tell("Mass migrations to run:")
        keys = [migration.key for migration in left]
        needs = required_by.by_key() if options["check"] else {}
        for index, migration in enumerate(left):
            text = planning.line(migration, entries, keys[:index], is_named=is_named, with_estimate=options["plan"])
            self.tell(f"  {text}")
            for name in needs.get(migration.key, ()):
                self.tell(f"    required by {name}")
        if options["check"]:
            raise SystemExit(1)

    def _verify(self, migrations: Sequence[BaseMigration], entries: dict[str, overview.Entry], db_alias: str) -> None:
        applied = [each for each in migrations if entries[each.key].status is Status.APPLIED]
        if not applied:
            self.tell("No mass migration is applied.")
        is_wrong = False
        for line, is_bad in verifying.report(applied, db_alias):
            self.tell(line)
            is_wrong = is_wrong or is_bad
        if is_wrong:
            raise SystemExit(1)

    def _fake(
        self, migrations: Sequence[BaseMigration], db_alias: str, options: dict[str, Any], *, is_named: bool
    ) -> None:
        if not migrations:
            self.tell("No mass migrations to mark as applied.")
        elif not is_named:
            names = "".join(f"\n  {migration.key}" for migration in migrations)
            question = f"These are marked as applied on database {db_alias!r} without running:{names}\nAre you sure?"
            confirm(question, is_interactive=options["interactive"])
        for migration in migrations:
            api.fake(migration.key, db_alias)
            self.tell(f"{migration.key} marked as applied.")

    def _try(self, key: str, db_alias: str, size: int) -> None:
        found = dryrun.dry_run(key, db_alias, size)
        for line in trying.report(key, db_alias, found):
            self.tell(line)
        if any(tried.error for tried in found.objects):
            raise SystemExit(EXIT_FAILED_OBJECTS)


def _add_modes(parser: CommandParser) -> None:
    """What to do instead of running."""
    parser.add_argument("--plan", action="store_true", help="Show what would be run, and change nothing.")
    parser.add_argument("--check", action="store_true", help="Exit with 1 if anything is not applied; run nothing.")
    parser.add_argument("--fake", action="store_true", help="Mark as applied without running.")
    parser.add_argument(
        "--dry-run", type=positive, metavar="N", help="Try a migration on N objects, show what it does, keep nothing."
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="Only retry what has failed, failed objects included."
    )
    parser.add_argument(
        "--verify", action="store_true", help="Look whether rows have come that need what is applied; exit with 1 then."
    )
    parser.add_argument("--recover", action="store_true", help="Send whatever is stuck again.")
