"""The runners of commands, which launch or continue migrations, watch them, and report the results."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Sequence

from django.core.management.base import CommandError
from django.db import DatabaseError, InterfaceError, connections

from massmigration import api, progress, text
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import question_of
from massmigration.dialects import dialect_of
from massmigration.dialects.errors import is_transient
from massmigration.exceptions import AlreadyLaunched, BatchInFlight, DependencyNotApplied, InvalidTransition
from massmigration.executor import planner
from massmigration.loader import store
from massmigration.management import workers
from massmigration.management.interrupts import EXIT_RESUMABLE, Interrupts
from massmigration.management.progress_bar import ProgressBar
from massmigration.management.workers import LocalWorkers, WorkerProcesses, ends_with_process, in_this_process
from massmigration.models import FailedObject, MigrationRecord
from massmigration.progress import Progress, describe_processed
from massmigration.recorder import tables
from massmigration.states import ACTIVE, Status
from massmigration.text import counted, duration, number

EXIT_FAILED_OBJECTS = 3

_WAS = {Status.PAUSED: "was paused", Status.FAILED: "had failed", Status.CANCELLED: "was cancelled"}

FIRST_WAIT = 0.05
LONGEST_WAIT = 0.5
"""Seconds between two readings of the record: short at first, because most migrations are."""

TRIES = 3
"""Number of attempts to launch or continue a migration, if another command is faster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """A stop that the command line requests for a part of a run."""

    rows: int | None
    time: dt.timedelta | None

    @classmethod
    def of(cls, rows: int | None, seconds: int | None) -> Stop | None:
        """Return the stop, or None if there is none."""
        if rows is None and seconds is None:
            return None
        return cls(rows=rows, time=None if seconds is None else dt.timedelta(seconds=seconds))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of the command line for running one migration."""

    db_alias: str
    is_local: bool = False
    workers: int = 1
    is_detached: bool = False
    verb: Callable[[str, str], None] | None = None
    """The function of `api` to start with; None for the one that fits the status."""

    skips_blocked: bool = False
    """Whether to skip a migration that was not named and whose dependencies are not applied."""

    stop: Stop | None = None
    """When the migration is to pause by itself; None: when it has ended."""


class MigrationRunner:
    """One migration in one command. `write` prints a result."""

    def __init__(
        self,
        migration: BaseMigration,
        options: RunOptions,
        *,
        bar: ProgressBar,
        interrupts: Interrupts,
        write: Callable[[str], None],
    ) -> None:
        self._migration = migration
        self._key = migration.key
        self._db_alias = options.db_alias
        self._options = options
        self._bar = bar
        self._interrupts = interrupts
        self._write = write
        self._has_joined = False
        self._runs_here = options.is_local or ends_with_process(migration)
        self._was_seen = False
        self._local_workers: LocalWorkers | None = None
        self._processes: WorkerProcesses | None = None

    def run(self, *, is_named: bool) -> str:
        """Run the migration until it is applied, or skip it. Raise `CommandError` with an exit code otherwise.

        If it waits for an operator, return its question and how to continue it, otherwise an empty string.
        """
        with contextlib.ExitStack() as stack:
            if self._runs_here:
                self._check_not_detached()
                stack.enter_context(in_this_process(self._migration))
                self._local_workers = LocalWorkers(self._key, self._db_alias)
            before = progress.read(self._key, self._db_alias)
            try:
                if not self._begin(before, is_named=is_named):
                    return self._told_waiting(before) if before and before.status is Status.WAITING else ""
            except DependencyNotApplied as error:
                if is_named or not self._options.skips_blocked:
                    raise
                self._bar.note(f"{error} Run this command again when it is applied.")
                return ""
            unsent = api.not_sent(self._key, self._db_alias)
            if self._options.is_detached:
                self._write(unsent or f"{self._key} launched; it runs in the workers of its backend.")
                return ""
            if unsent:
                self._bar.note(unsent)
            return self._follow(before)

    def _check_not_detached(self) -> None:
        if self._options.is_detached:
            raise CommandError(
                f"--detach is not possible for {self._key!r}: its jobs run in this process and would end with it. "
                "Omit --detach, or set MASSMIGRATION_BACKEND to the backend of a queue."
            )

    def _begin(self, current: Progress | None, *, is_named: bool) -> bool:
        """Launch or continue the migration. Return whether to watch it now."""
        if self._options.verb is not None:
            self._request_stop()
            self._options.verb(self._key, self._db_alias)
            return True
        for left in reversed(range(TRIES)):
            try:
                return self._continue(current, is_named=is_named)
            except (AlreadyLaunched, InvalidTransition):
                if not left:
                    raise
            current = progress.read(self._key, self._db_alias)
        raise AssertionError("unreachable")

    def _continue(self, current: Progress | None, *, is_named: bool) -> bool:
        status = current.status if current else None
        if status is Status.APPLIED:
            if is_named:
                self._write(f"{self._key} is already applied; nothing to do.")
            return False
        if status is Status.CANCELLED and not is_named:
            self._bar.note(f"{self._key} was cancelled and is skipped. To run it, name it.")
            return False
        if status is Status.WAITING:
            return False
        if current is not None:
            self._request_stop()
        if current is not None and current.is_active:
            what = "joining in" if self._runs_here and current.is_managed else "watching it"
            self._bar.note(f"{self._key} is already {current.status.value}; {what}.")
            self._has_joined = True
            return True
        if current is not None:
            self._bar.note(f"{self._key} {_WAS[current.status]}; continuing from where it stopped.")
        if status is None:
            stop = self._options.stop
            options = {"stop_after_rows": stop.rows, "stop_after_time": stop.time} if stop else {}
            api.launch(self._key, self._db_alias, **options)  # type: ignore[arg-type]
        else:
            (api.resume if status is Status.PAUSED else api.retry)(self._key, self._db_alias)
        return True

    def _request_stop(self) -> None:
        stop = self._options.stop
        if stop is not None:
            api.stop_after(self._key, self._db_alias, rows=stop.rows, time=stop.time)

    def _told_waiting(self, current: Progress) -> str:
        question = question_of(self._migration, current.stage) or "its file has changed since; cancel and retry it"
        proceed = self._command("massmigration proceed")
        return f"{self._key} is waiting for an operator: {question}\nTo continue it: {proceed}"

    def _follow(self, before: Progress | None) -> str:
        started = time.monotonic()
        self._bar.begin()
        try:
            last = self._watch()
        finally:
            if self._processes:
                self._processes.end()
            if self._local_workers:
                self._local_workers.finish()
        self._bar.show(last, is_last=True)
        if last.status is Status.WAITING:
            return self._told_waiting(last)
        self._report(last, before, time.monotonic() - started)
        return ""

    def _watch(self) -> Progress:
        wait = FIRST_WAIT
        while True:
            current = self._read()
            if current is not None:
                if not current.is_active:
                    return current
                self._bar.show(current)
                if self._local_workers and current.attempt_id in planner.unseen:
                    self._end_if_unseen(current)
                if self._local_workers and current.is_managed:
                    self._work(self._local_workers, current)
            if self._interrupts.requested:
                return self._interrupt(current)
            self._wait(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)

    def _end_if_unseen(self, before: Progress) -> None:
        """Raise if this connection sees the record of the attempt although a thread did not find it."""
        current = self._read()
        if current is None or current.attempt_id != before.attempt_id:
            return
        paused = ""
        if not self._has_joined:
            with contextlib.suppress(InvalidTransition):
                api.pause(self._key, self._db_alias)
                paused = " It is now paused."
        raise CommandError(
            f"{self._key} cannot run in threads of this process: on database {self._db_alias!r}, their connections do "
            "not see its record, but this connection does. This happens in a schema_context of django-tenants, or if "
            f"search_path was set on one connection. Nothing was changed.{paused} Run it in one thread: with "
            "MASSMIGRATION_BACKEND = 'massmigration.backends.immediate.ImmediateBackend', call "
            f"massmigration.api.{'resume' if paused else 'send'}({self._key!r}) where the schema is set. See the "
            "how-to on several databases.",
            returncode=EXIT_RESUMABLE,
        )

    def _read(self) -> Progress | None:
        """Return the progress, or None if the database has a temporary error."""
        try:
            current = progress.read(self._key, self._db_alias)
        except (DatabaseError, InterfaceError) as error:
            if not is_transient(error):
                raise
            self._bar.note(f"The database cannot be read ({text.safe(error).strip()}); trying again.")
            connections[self._db_alias].close_if_unusable_or_obsolete()
            return None
        if current is None and not self._was_seen:
            raise CommandError(
                f"{self._key} was handed to its backend, which has not recorded it yet. Check it later with: "
                "manage.py showmassmigrations",
                returncode=EXIT_RESUMABLE,
            )
        if current is None:
            raise CommandError(f"{self._key} no longer has a record on database {self._db_alias!r}: it was forgotten.")
        self._was_seen = True
        return current

    def _work(self, local_workers: LocalWorkers, current: Progress) -> None:
        local_workers.keep_working(current)
        if self._options.workers > 1 and not current.is_once:
            if self._processes is None:
                self._processes = WorkerProcesses(self._options.workers - 1, self._key, self._db_alias)
                self._interrupts.at_once = self._processes.kill
            self._processes.keep_alive()

    def _wait(self, seconds: float) -> None:
        if self._local_workers:
            self._local_workers.wait(seconds)
        else:
            time.sleep(seconds)

    def _interrupt(self, current: Progress | None) -> Progress:
        """Pause the migration if this command started it; otherwise stop working on it."""
        if not self._local_workers or (current is not None and not current.is_managed):
            self._bar.note(f"{self._key} is no longer watched but continues. To watch it again: {self._command()}")
            raise SystemExit(self._interrupts.exit_code)
        self._bar.note("Stopping after the current batch; press Ctrl-C again to exit at once.")
        self._local_workers.stop()
        if self._processes:
            self._processes.stop()
        is_paused = self._has_joined
        while not (self._have_stopped(self._local_workers) and is_paused):
            is_paused = is_paused or self._pause()
        while (last := self._read()) is None:
            time.sleep(LONGEST_WAIT)
        if self._has_joined and last.is_active:
            pause = self._command("massmigration pause")
            self._bar.note(
                f"This command stopped working on {self._key}. The migration was started elsewhere and is not paused; "
                f"its other workers continue. To join in again: {self._command()}; to pause it: {pause}"
            )
            raise SystemExit(self._interrupts.exit_code)
        if last.status is not Status.PAUSED:  # it has ended
            return last
        self._bar.note(f"{self._key} is paused after {counted(last.done, 'row')}. To continue: {self._command()}")
        raise SystemExit(self._interrupts.exit_code)

    def _have_stopped(self, local_workers: LocalWorkers) -> bool:
        return local_workers.stop(0.1) and (self._processes is None or self._processes.have_ended())

    def _pause(self) -> bool:
        """Pause the migration. Return False if the database is busy, perhaps with the last batch."""
        try:
            api.pause(self._key, self._db_alias)
        except InvalidTransition:
            return True
        except (BatchInFlight, DatabaseError, InterfaceError) as error:
            if not isinstance(error, BatchInFlight) and not is_transient(error):
                raise
            time.sleep(FIRST_WAIT)
            return False
        return True

    def _command(self, verb: str = "massmigrate") -> str:
        app_label, _, name = self._key.partition(":")
        return f"manage.py {verb} {app_label} {name} --database {self._db_alias}"

    def _report(self, last: Progress, before: Progress | None, seconds: float) -> None:
        if last.status is Status.APPLIED:
            rows = "" if last.is_once and not last.processed else f": {describe_processed(last)}"
            if rows and before is not None:
                rows += f", the last {number(last.processed - before.processed)} of them"
            self._write(f"{self._key} applied{rows} in {duration(seconds)}")
            return
        if last.status is Status.FAILED:
            failed = FailedObject.objects.using(self._db_alias).filter(record_id=self._key, resolved_at=None).exists()
            raise CommandError(
                f"{self._key} failed: {last.last_error}\n"
                f"Fix the cause, then retry from where it stopped: {self._command()}",
                returncode=EXIT_FAILED_OBJECTS if failed else 1,
            )
        if last.status is Status.PAUSED and self._options.stop and not last.pace.stops:
            rows = f" after {counted(last.done, 'row')}" if last.total is None or last.done else ""
            raise CommandError(
                f"{self._key} has paused by itself{rows}, as requested. Check the result, then continue with: "
                f"{self._command()}",
                returncode=EXIT_RESUMABLE,
            )
        raise CommandError(
            f"{self._key} was {last.status.value} by another user or process. To continue: {self._command()}",
            returncode=EXIT_RESUMABLE,
        )


Wanted = Sequence[tuple[BaseMigration, str]]
"""Migrations with their databases, in the order in which they run."""


class RunSeries:
    """Several migrations, run one after the other as the command line says. `write` prints a result."""

    def __init__(
        self,
        *,
        bar: ProgressBar,
        write: Callable[[str], None],
        is_local: bool = False,
        workers: int = 1,
        is_detached: bool = False,
        stop: Stop | None = None,
    ) -> None:
        self._stop = stop
        self._bar = bar
        self._write = write
        self._is_local = is_local
        self._requested_workers = workers
        self._is_detached = is_detached

    def run(self, wanted: Wanted, *, is_named: bool, verb: Callable[[str, str], None] | None = None) -> None:
        """Run each migration to its end, starting with `verb` or what fits its status. Raise at the first failure.

        One that waits for an operator does not stop the others. It raises after them, unless they are only launched.
        """
        waiting: list[str] = []
        with Interrupts() as interrupts:
            for migration, db_alias in wanted:
                if interrupts.requested:
                    raise SystemExit(interrupts.exit_code)
                options = RunOptions(
                    db_alias=db_alias,
                    is_local=self._is_local,
                    workers=self._workers(migration, db_alias),
                    is_detached=self._is_detached,
                    verb=verb,
                    skips_blocked=self._is_detached or bool(waiting),
                    stop=self._stop,
                )
                runner = MigrationRunner(migration, options, bar=self._bar, interrupts=interrupts, write=self._write)
                if text := runner.run(is_named=is_named):
                    waiting.append(text)
        if waiting and self._is_detached:
            self._write("\n".join(waiting))
        elif waiting:
            raise CommandError("\n".join(waiting), returncode=EXIT_RESUMABLE)

    def recover(self, aliases: Sequence[str]) -> None:
        """Send the stuck jobs of these databases again, and run those that belong to this process.

        Raise `CommandError` if the queue did not accept a job.
        """
        if len(aliases) == 1:
            tables.require(aliases[0])
        unsent: list[str] = []
        wanted = []
        for db_alias in filter(tables.exist, aliases):
            count = api.recover(db_alias)
            self._write(f"Database {db_alias!r}: sent {counted(count, 'stuck job')} again.")
            active = MigrationRecord.objects.using(db_alias).filter(status__in=ACTIVE, is_managed=True)
            keys = set(active.values_list("key", flat=True))
            unsent += filter(None, [api.not_sent(key, db_alias) for key in sorted(keys)])
            wanted += [(each, db_alias) for each in store.all if each.key in keys and self.runs_here(each)]
        self.run(wanted, is_named=True)
        if unsent:
            raise CommandError("\n".join(unsent))

    def runs_here(self, migration: BaseMigration) -> bool:
        """Return whether this process runs the migration's jobs."""
        return self._is_local or ends_with_process(migration)

    def _workers(self, migration: BaseMigration, db_alias: str) -> int:
        """Return the number of processes to run, with a note if it is less than requested."""
        if self._requested_workers == 1:
            return 1
        if not self.runs_here(migration):
            reason = "runs in the workers of its backend; --workers is only for runs in this process, as with --local"
        elif not dialect_of(db_alias).supports_parallel_shards:
            reason = "runs in one process, because the database has one writer at a time"
        elif not workers.can_start():
            reason = (
                "runs in one process, because DJANGO_SETTINGS_MODULE is not set and others would not find the settings"
            )
        else:
            return self._requested_workers
        self._bar.note(f"{migration.key} {reason}.")
        return 1
