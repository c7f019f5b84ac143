"""The command that runs mass migrations, as `migrate` runs schema migrations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from massmigration import api, dryrun, overview
from massmigration.definitions.base import BaseMigration
from massmigration.enforcement import registry
from massmigration.exceptions import BadMigrationFile
from massmigration.management import output, plan, workers
from massmigration.management.base import MassMigrationCommand, confirm, confirm_launch, positive
from massmigration.management.runner import EXIT_FAILED_OBJECTS, RunSeries, Stop
from massmigration.management.selection import select_migrations, unusable_files
from massmigration.models import MigrationRecord
from massmigration.recorder import tables
from massmigration.states import Status

MODES = ("plan", "check", "fake", "dry_run", "retry_failed", "recover", "verify")
"""Options for another task than running migrations. They exclude each other, except `--plan` and `--check`."""

RUN_NOTHING = ("plan", "check", "fake", "dry_run", "verify")
"""Modes that run nothing, so that options such as `--local` have no meaning."""


def check_flags(options: dict[str, Any]) -> None:
    """Raise `CommandError` if the options exclude each other."""
    given = [mode for mode in MODES if options[mode]]
    for one, other in combinations(given, 2):
        if (one, other) != ("plan", "check"):
            raise CommandError(f"{_flag(one)} and {_flag(other)} exclude each other. Use one of them.")
    hows = [how for how in ("local", "detach") if options[how]] + ["workers"] * (options["workers"] > 1)
    for mode in given:
        if mode in RUN_NOTHING and hows:
            raise CommandError(f"{_flag(mode)} runs nothing, so {_flag(hows[0])} has no effect. Omit it.")
    if options["local"] and options["detach"]:
        raise CommandError("--local runs in this process and --detach does not wait. Use one of them.")
    if options["recover"] and options["app_label"]:
        raise CommandError(f"--recover works on all migrations; omit {options['app_label']!r}.")
    if options["fake"] and not options["app_label"]:
        raise CommandError("--fake requires an app label or a migration's key.")
    stops = [name for name in ("stop_after", "stop_after_time") if options[name]]
    if stops and [mode for mode in given if mode != "retry_failed"]:
        raise CommandError(f"{_flag(stops[0])} needs a run, so {_flag(given[0])} has no effect. Omit one of them.")
    if stops and not (options["name"] or ":" in (options["app_label"] or "")):
        raise CommandError(
            f"{_flag(stops[0])} requires the name of one migration, as in: massmigrate shop 0001_slugs "
            f"{_flag(stops[0])} {'1000' if options['stop_after'] else '60'}"
        )
    if options["dry_run"] and not (options["name"] or ":" in (options["app_label"] or "")):
        raise CommandError(
            "--dry-run requires the name of one migration, as in: massmigrate --dry-run 10 shop 0001_slugs"
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


EXIT_CODES = """
exit codes: 0 success; 1 error, or --check or --verify found something; 2 unknown app; 3 ended with failed objects;
4 waiting, paused or cancelled, can be continued; 130 after Ctrl-C, which stops after the current batch (a second
Ctrl-C exits at once).
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
            help='The database to migrate. Defaults to "default"; with --recover, to all databases.',
        )
        _add_modes(parser)
        parser.add_argument("--local", action="store_true", help="Run in this process, whatever the backend.")
        parser.add_argument(
            "--workers",
            type=positive,
            default=1,
            metavar="N",
            help="Number of processes to run in, including this one.",
        )
        parser.add_argument(
            "--stop-after",
            type=positive,
            metavar="ROWS",
            help="Pause the migration after this number of further rows; each worker processes at most a batch more.",
        )
        parser.add_argument(
            "--stop-after-time", type=positive, metavar="SECONDS", help="Pause the migration after this time."
        )
        parser.add_argument("--detach", action="store_true", help="Launch the migrations and return at once.")
        parser.add_argument(
            "--no-input", "--noinput", action="store_false", dest="interactive", help="Do not ask for confirmation."
        )
        # Used by the processes that --workers starts.
        parser.add_argument("--attach", action="store_true", help=argparse.SUPPRESS)

    def run_command(self, options: dict[str, Any]) -> None:
        check_flags(options)
        self._unusable: list[BadMigrationFile] = []
        self._series = RunSeries(
            bar=self.bar,
            write=self.write,
            is_local=options["local"],
            workers=options["workers"],
            is_detached=options["detach"],
            stop=Stop.of(options["stop_after"], options["stop_after_time"]),
        )
        if options["recover"]:
            self._series.recover([options["database"]] if options["database"] else list(connections))
            return
        db_alias = options["database"] or DEFAULT_DB_ALIAS
        migrations, is_named = select_migrations(options["app_label"], options["name"])
        tables.require(db_alias)
        if not is_named:
            self._note_unusable(options["app_label"], db_alias)
        if options["attach"]:
            workers.attach(migrations[0].key, db_alias)
        elif options["dry_run"]:
            self._dry_run(migrations[0].key, db_alias, options["dry_run"])
        else:
            self._migrate(migrations, db_alias, options, is_named=is_named)
        if self._unusable and (options["check"] or not options["plan"]):
            raise CommandError("\n".join(map(str, self._unusable)))

    def _note_unusable(self, app_label: str | None, db_alias: str) -> None:
        """Note the files that cannot be used, except files of applied migrations. The others still run."""
        found = unusable_files(app_label)
        applied = MigrationRecord.objects.using(db_alias).filter(key__in=found, status=Status.APPLIED)
        done = set(applied.values_list("key", flat=True))
        self._unusable = [error for key, error in found.items() if key not in done]
        for error in self._unusable:
            self.bar.note(f"Skipped: {error}")

    def _migrate(
        self, migrations: Sequence[BaseMigration], db_alias: str, options: dict[str, Any], *, is_named: bool
    ) -> None:
        entries = {entry.key: entry for entry in overview.read(db_alias)}
        left = [migration for migration in migrations if plan.is_outstanding(migration, entries)]
        if not is_named:
            required = registry.by_key() if options["check"] else {}
            left = [each for each in left if not each.runs_only_by_name or each.key in required]
        if options["verify"]:
            self._verify(migrations, entries, db_alias)
        elif options["plan"] or options["check"]:
            self._plan(left, entries, options, is_named=is_named)
        elif options["fake"]:
            self._fake(migrations if is_named else left, db_alias, options, is_named=is_named)
        elif options["retry_failed"]:
            failed = [each for each in left if entries[each.key].status is Status.FAILED]
            if not failed and not is_named:
                self.write("No mass migration has failed.")
            wanted = [(each, db_alias) for each in (migrations if is_named else failed)]
            self._series.run(wanted, is_named=is_named, verb=api.retry)
        elif is_named or left:
            chosen = migrations if is_named else left
            new = [each for each in chosen if entries[each.key].record is None]
            confirm_launch(new, db_alias, is_interactive=options["interactive"])
            self._series.run([(each, db_alias) for each in chosen], is_named=is_named)
        else:
            self.write("No mass migrations to run.")

    def _plan(
        self,
        left: Sequence[BaseMigration],
        entries: dict[str, overview.MigrationStatus],
        options: dict[str, Any],
        *,
        is_named: bool,
    ) -> None:
        if not left:
            self.write("No mass migrations to run.")
            return
        self.write("Mass migrations to run:")
        keys = [migration.key for migration in left]
        needs = registry.by_key() if options["check"] else {}
        for index, migration in enumerate(left):
            text = plan.line(migration, entries, keys[:index], is_named=is_named, with_estimate=options["plan"])
            self.write(f"  {text}")
            for name in needs.get(migration.key, ()):
                self.write(f"    required by {name}")
        if options["check"]:
            raise SystemExit(1)

    def _verify(
        self, migrations: Sequence[BaseMigration], entries: dict[str, overview.MigrationStatus], db_alias: str
    ) -> None:
        applied = [each for each in migrations if entries[each.key].status is Status.APPLIED]
        if not applied:
            self.write("No mass migration is applied.")
        is_wrong = False
        for line, is_bad in output.verification_lines(applied, db_alias):
            self.write(line)
            is_wrong = is_wrong or is_bad
        if is_wrong:
            raise SystemExit(1)

    def _fake(
        self, migrations: Sequence[BaseMigration], db_alias: str, options: dict[str, Any], *, is_named: bool
    ) -> None:
        if not migrations:
            self.write("No mass migrations to mark as applied.")
        elif not is_named:
            names = "".join(f"\n  {migration.key}" for migration in migrations)
            question = (
                f"These will be marked as applied on database {db_alias!r} without running:{names}\nAre you sure?"
            )
            confirm(question, is_interactive=options["interactive"])
        for migration in migrations:
            api.fake(migration.key, db_alias)
            self.write(f"{migration.key} marked as applied.")

    def _dry_run(self, key: str, db_alias: str, size: int) -> None:
        found = dryrun.dry_run(key, db_alias, size)
        for line in output.dry_run_lines(key, db_alias, found):
            self.write(line)
        if any(result.error for result in found.objects):
            raise SystemExit(EXIT_FAILED_OBJECTS)


def _add_modes(parser: CommandParser) -> None:
    """Add the options in `MODES`."""
    parser.add_argument("--plan", action="store_true", help="Show what would run, without running it.")
    parser.add_argument("--check", action="store_true", help="Exit with 1 if a migration is not applied. Run nothing.")
    parser.add_argument("--fake", action="store_true", help="Mark migrations as applied without running them.")
    parser.add_argument(
        "--dry-run", type=positive, metavar="N", help="Run a migration on N objects, show the changes, and roll back."
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="Retry only the failed migrations, including their failed objects."
    )
    parser.add_argument(
        "--verify", action="store_true", help="Exit with 1 if new rows need a migration that is applied."
    )
    parser.add_argument("--recover", action="store_true", help="Send stuck jobs again.")
