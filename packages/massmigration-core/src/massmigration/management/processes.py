"""Further processes that work at a migration for `massmigrate --workers`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import ENVIRONMENT_VARIABLE

from massmigration import progress
from massmigration.loader import store
from massmigration.management.foreground import Foreground, in_this_process

POLL = 0.2
STOP_WAIT = 10.0
"""Seconds that a process has to come to the end of a batch when the migration is over already."""

MIN_LIFE = 2.0
"""A process that ends sooner than this many seconds after its start is not worth starting again at once."""


def can_start() -> bool:
    """Whether another process would find the settings: not after `settings.configure()`."""
    return ENVIRONMENT_VARIABLE in os.environ


class Processes:
    """Starts them, starts them again when they die, and ends them."""

    def __init__(self, count: int, key: str, db_alias: str) -> None:
        arguments = [key, "--database", db_alias, "--local", "--attach", "--skip-checks"]
        self._command = [sys.executable, "-m", "django", "massmigrate", *arguments]
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        }
        self._started = [float("-inf")] * count
        self._running: list[subprocess.Popen[bytes] | None] = [None] * count

    def keep_alive(self) -> None:
        """Start those that do not run, each at most once every few seconds."""
        for index, process in enumerate(self._running):
            has_ended = process is None or process.poll() is not None
            if has_ended and time.monotonic() - self._started[index] > MIN_LIFE:
                self._started[index] = time.monotonic()
                self._running[index] = self._start()

    def stop(self) -> None:
        """Ask them to end at the next batch boundary."""
        for process in filter(None, self._running):
            if process.stdin:
                process.stdin.close()
            process.terminate()

    def have_ended(self) -> bool:
        return all(process is None or process.poll() is not None for process in self._running)

    def end(self) -> None:
        """End them when there is nothing left to do."""
        self.stop()
        deadline = time.monotonic() + STOP_WAIT
        for process in filter(None, self._running):
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        for process in filter(None, self._running):
            process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        # The pipe tells the child when this process dies. A terminal's Ctrl-C is for this process alone.
        return subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )


def attach(key: str, db_alias: str) -> None:
    """In a child: work until the migration is no longer active, the parent is gone, or SIGTERM comes."""
    ending = threading.Event()
    # Nothing waits for this event, so it can be set by a signal.
    signal.signal(signal.SIGTERM, lambda number, frame: ending.set())
    threading.Thread(target=_watch_parent, args=(ending.set,), name="massmigration-parent", daemon=True).start()
    with in_this_process(store.get(key)):
        foreground = Foreground(key, db_alias)
        while not ending.is_set():
            reading = progress.read(key, db_alias)
            if reading is None or not reading.is_active:
                break
            foreground.keep_working(reading)
            foreground.wait(POLL)
        while not foreground.stop(POLL):
            pass


def _watch_parent(end: Callable[[], None]) -> None:
    # Not sys.stdin: the interpreter cannot shut down while a thread is reading that.
    while os.read(0, 1):
        pass
    end()
