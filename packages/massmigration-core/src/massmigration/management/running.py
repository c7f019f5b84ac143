"""Runs one migration for `massmigrate`: begins it or goes on with it, watches it to its end, reports."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable

from django.core.management.base import CommandError
from django.db import DatabaseError, InterfaceError, connections

from massmigration import api, progress
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import AlreadyLaunched, BatchInFlight, DependencyNotApplied, InvalidTransition
from massmigration.management.bar import Bar, counted, duration, number
from massmigration.management.foreground import Foreground, ends_with_process, in_this_process
from massmigration.management.interrupts import EXIT_RESUMABLE, Interrupts
from massmigration.management.processes import Processes
from massmigration.models import FailedObject
from massmigration.progress import Reading
from massmigration.states import Status
from massmigration.transient import is_transient

EXIT_FAILED_OBJECTS = 3

_WAS = {Status.PAUSED: "was paused", Status.FAILED: "had failed", Status.CANCELLED: "was cancelled"}

FIRST_WAIT = 0.05
LONGEST_WAIT = 0.5
"""Seconds between two looks at the record: short at first, for most migrations are."""

TRIES = 3
"""How often beginning is tried again when another command was faster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says about how to run."""

    db_alias: str
    is_local: bool = False
    workers: int = 1
    is_detached: bool = False
    verb: Callable[[str, str], None] | None = None
    """The verb to begin with, as in `api`; None: the one that fits the status."""


class Run:
    """One migration in one command. `tell` writes results."""

    def __init__(
        self,
        migration: BaseMigration,
        options: Options,
        *,
        bar: Bar,
        interrupts: Interrupts,
        tell: Callable[[str], None],
    ) -> None:
        self._migration = migration
        self._key = migration.key
        self._db_alias = options.db_alias
        self._options = options
        self._bar = bar
        self._interrupts = interrupts
        self._tell = tell
        self._has_joined = False
        self._is_foreground = options.is_local or ends_with_process(migration)
        self._was_seen = False
        self._foreground: Foreground | None = None
        self._processes: Processes | None = None

    def run(self, *, is_named: bool) -> None:
        """Return when it is applied or not to be run. Raise `CommandError`, with an exit code, for all other ends."""
        with contextlib.ExitStack() as stack:
            if self._is_foreground:
                self._check_foreground()
                stack.enter_context(in_this_process(self._migration))
                self._foreground = Foreground(self._key, self._db_alias)
            before = progress.read(self._key, self._db_alias)
            try:
                if not self._begin(before, is_named=is_named):
                    return
            except DependencyNotApplied as error:
                if is_named or not self._options.is_detached:
                    raise
                self._bar.note(f"{error} Run this command again when it is.")
                return
            unsent = api.not_sent(self._key, self._db_alias)
            if self._options.is_detached:
                self._tell(unsent or f"{self._key} launched; it runs in the workers of its backend.")
                return
            if unsent:
                self._bar.note(unsent)
            self._follow(before)

    def _check_foreground(self) -> None:
        if self._options.is_detached:
            raise CommandError(
                f"--detach is not possible for {self._key!r}: its jobs run in this process and would end with it. "
                "Leave out --detach, or set MASSMIGRATION_BACKEND to the backend of a queue."
            )

    def _begin(self, reading: Reading | None, *, is_named: bool) -> bool:
        """Give the verb. Return whether there is something to watch now."""
        if self._options.verb is not None:
            self._options.verb(self._key, self._db_alias)
            return True
        for left in reversed(range(TRIES)):
            try:
                return self._give_verb(reading, is_named=is_named)
            except (AlreadyLaunched, InvalidTransition):
                if not left:
                    raise
            reading = progress.read(self._key, self._db_alias)
        raise AssertionError("unreachable")

    def _give_verb(self, reading: Reading | None, *, is_named: bool) -> bool:
        status = reading.status if reading else None
        if status is Status.APPLIED:
            if is_named:
                self._tell(f"{self._key} is applied already; nothing to do.")
            return False
        if status is Status.CANCELLED and not is_named:
            self._bar.note(f"{self._key} was cancelled and is skipped; name it to run it.")
            return False
        if reading is not None and reading.is_active:
            what = "working at it, too" if self._is_foreground and reading.is_managed else "watching it"
            self._bar.note(f"{self._key} is {reading.status.value} already; {what}.")
            self._has_joined = True
            return True
        if reading is not None:
            self._bar.note(f"{self._key} {_WAS[reading.status]}; it goes on where it stopped.")
        verb = {None: api.launch, Status.PAUSED: api.resume}.get(status, api.retry)
        verb(self._key, self._db_alias)
        return True

    def _follow(self, before: Reading | None) -> None:
        started = time.monotonic()
        self._bar.begin()
        try:
            last = self._watch()
        finally:
            if self._processes:
                self._processes.end()
            if self._foreground:
                self._foreground.finish()
        self._bar.show(last, is_last=True)
        self._report(last, before, time.monotonic() - started)

    def _watch(self) -> Reading:
        wait = FIRST_WAIT
        while True:
            reading = self._look()
            if reading is not None:
                if not reading.is_active:
                    return reading
                self._bar.show(reading)
                if self._foreground and reading.is_managed:
                    self._work(self._foreground, reading)
            if self._interrupts.requested:
                return self._interrupt(reading)
            self._wait(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)

    def _look(self) -> Reading | None:
        """None: the database does not answer, for reasons that pass."""
        try:
            reading = progress.read(self._key, self._db_alias)
        except (DatabaseError, InterfaceError) as error:
            if not is_transient(error):
                raise
            self._bar.note(f"The database does not answer ({str(error).strip()}); trying again.")
            connections[self._db_alias].close_if_unusable_or_obsolete()
            return None
        if reading is None and not self._was_seen:
            raise CommandError(
                f"{self._key} was handed to its backend, which has not recorded it yet. Look later: "
                "manage.py showmassmigrations",
                returncode=EXIT_RESUMABLE,
            )
        if reading is None:
            raise CommandError(f"{self._key} has no record on database {self._db_alias!r} any more: it was forgotten.")
        self._was_seen = True
        return reading

    def _work(self, foreground: Foreground, reading: Reading) -> None:
        foreground.keep_working(reading)
        if self._options.workers > 1 and not reading.is_once:
            if self._processes is None:
                self._processes = Processes(self._options.workers - 1, self._key, self._db_alias)
                self._interrupts.at_once = self._processes.kill
            self._processes.keep_alive()

    def _wait(self, seconds: float) -> None:
        if self._foreground:
            self._foreground.wait(seconds)
        else:
            time.sleep(seconds)

    def _interrupt(self, reading: Reading | None) -> Reading:
        """Pause what was begun here; only leave what was begun elsewhere."""
        if not self._foreground or (reading is not None and not reading.is_managed):
            self._bar.note(f"{self._key} is no longer watched; it goes on. Watch it again: {self._command()}")
            raise SystemExit(self._interrupts.exit_code)
        self._bar.note("Stopping at the end of the batch; press Ctrl-C again to exit at once.")
        self._foreground.stop()
        if self._processes:
            self._processes.stop()
        is_paused = self._has_joined
        while not (self._have_stopped(self._foreground) and is_paused):
            is_paused = is_paused or self._pause()
        while (last := self._look()) is None:
            time.sleep(LONGEST_WAIT)
        if self._has_joined and last.is_active:
            pause = self._command("massmigration pause")
            self._bar.note(
                f"{self._key} is no longer worked at here. It was begun elsewhere and is not paused: whoever else "
                f"works at it goes on. Work at it again: {self._command()}; pause it: {pause}"
            )
            raise SystemExit(self._interrupts.exit_code)
        if last.status is not Status.PAUSED:  # it has ended in the meantime
            return last
        self._bar.note(f"{self._key} is paused after {counted(last.done, 'row')}. Go on: {self._command()}")
        raise SystemExit(self._interrupts.exit_code)

    def _have_stopped(self, foreground: Foreground) -> bool:
        return foreground.stop(0.1) and (self._processes is None or self._processes.have_ended())

    def _pause(self) -> bool:
        """Pause it, or find it ended. False: the database is busy, perhaps with the last batch."""
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

    def _report(self, last: Reading, before: Reading | None, seconds: float) -> None:
        if last.status is Status.APPLIED:
            rows = "" if last.is_once and not last.processed else f": {counted(last.processed, 'row')}"
            if rows and before is not None:
                rows += f", the last {number(last.processed - before.processed)} of them"
            self._tell(f"{self._key} applied{rows} in {duration(seconds)}")
            return
        if last.status is Status.FAILED:
            failed = FailedObject.objects.using(self._db_alias).filter(record_id=self._key, resolved_at=None).exists()
            raise CommandError(
                f"{self._key} failed: {last.last_error}\n"
                f"Mend the cause, then retry where it stopped: {self._command()}",
                returncode=EXIT_FAILED_OBJECTS if failed else 1,
            )
        raise CommandError(
            f"{self._key} was {last.status.value} by somebody else. Go on: {self._command()}", returncode=EXIT_RESUMABLE
        )
