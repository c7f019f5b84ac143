"""Runs one migration after the other for a command."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.db import connections

from massmigration import api, tables
from massmigration.definitions.base import BaseMigration
from massmigration.loader import store
from massmigration.management import processes
from massmigration.management.bar import Bar
from massmigration.management.foreground import ends_with_process
from massmigration.management.interrupts import Interrupts
from massmigration.management.running import Options, Run
from massmigration.models import MigrationRecord
from massmigration.states import ACTIVE

Wanted = Sequence[tuple[BaseMigration, str]]
"""Migrations, each with its database, in the order in which they are run."""


class Series:
    """How the command line wants them run. `tell` writes results."""

    def __init__(
        self,
        *,
        bar: Bar,
        tell: Callable[[str], None],
        is_local: bool = False,
        workers: int = 1,
        is_detached: bool = False,
    ) -> None:
        self._bar = bar
        self._tell = tell
        self._is_local = is_local
        self._wanted_workers = workers
        self._is_detached = is_detached

    def run(self, wanted: Wanted, *, is_named: bool, verb: Callable[[str, str], None] | None = None) -> None:
        """Give `verb` to each, or the verb that fits, and stay until it ends. An end that is no success ends all."""
        with Interrupts() as interrupts:
            for migration, db_alias in wanted:
                if interrupts.requested:
                    raise SystemExit(interrupts.exit_code)
                options = Options(
                    db_alias=db_alias,
                    is_local=self._is_local,
                    workers=self._workers(migration, db_alias),
                    is_detached=self._is_detached,
                    verb=verb,
                )
                Run(migration, options, bar=self._bar, interrupts=interrupts, tell=self._tell).run(is_named=is_named)

    def recover(self, aliases: Sequence[str]) -> None:
        """Send whatever is stuck on these databases, and work at what runs in this process."""
        if len(aliases) == 1:
            tables.check(aliases[0])
        wanted = []
        for db_alias in filter(tables.exist, aliases):
            count = api.heal(db_alias)
            self._tell(f"Database {db_alias!r}: {count} stuck {'job was' if count == 1 else 'jobs were'} sent again.")
            active = MigrationRecord.objects.using(db_alias).filter(status__in=ACTIVE, is_managed=True)
            keys = set(active.values_list("key", flat=True))
            wanted += [(each, db_alias) for each in store.all if each.key in keys and self.runs_here(each)]
        self.run(wanted, is_named=True)

    def runs_here(self, migration: BaseMigration) -> bool:
        """Whether the migration's jobs are done by this process."""
        return self._is_local or ends_with_process(migration)

    def _workers(self, migration: BaseMigration, db_alias: str) -> int:
        """As many as make sense, with a notice when that is fewer than wanted."""
        if self._wanted_workers == 1:
            return 1
        if not self.runs_here(migration):
            reason = "runs in the workers of its backend; --workers is for runs in this process, as with --local"
        elif connections[db_alias].vendor == "sqlite":
            reason = "runs in one process: SQLite has one writer at a time"
        elif not processes.can_start():
            reason = "runs in one process: others would not find the settings, for DJANGO_SETTINGS_MODULE is not set"
        else:
            return self._wanted_workers
        self._bar.note(f"{migration.key} {reason}.")
        return 1
