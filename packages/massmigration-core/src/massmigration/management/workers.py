"""The workers of a command: threads of this process, and the processes of `massmigrate --workers`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from django.conf import ENVIRONMENT_VARIABLE

from massmigration import api, progress
from massmigration.backends import handler, worker
from massmigration.backends.immediate import ImmediateBackend
from massmigration.backends.local import LocalBackend, pool
from massmigration.definitions.base import BaseMigration
from massmigration.loader import store
from massmigration.progress import Progress

POLL = 0.2
STOP_WAIT = 10.0
"""Seconds that a process has to finish its batch after the migration has ended."""

MIN_LIFE = 2.0
"""Seconds between two starts of a process that keeps dying."""

FINISH_WAIT = 5.0
"""Seconds to wait for the last batches of a migration that has ended."""

JOIN_INTERVAL = 2.0
"""Minimum of seconds before a process asks for more work in the same stage."""


def can_start() -> bool:
    """Return whether another process finds the settings, which it does not after `settings.configure()`."""
    return ENVIRONMENT_VARIABLE in os.environ


class WorkerProcesses:
    """Worker processes of this command, which are restarted when they die."""

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
        """Start the processes that are not running, each at most once in `MIN_LIFE` seconds."""
        for index, process in enumerate(self._running):
            has_ended = process is None or process.poll() is not None
            if has_ended and time.monotonic() - self._started[index] > MIN_LIFE:
                self._started[index] = time.monotonic()
                self._running[index] = self._start()

    def stop(self) -> None:
        """Ask the processes to stop after their batches."""
        for process in filter(None, self._running):
            if process.stdin:
                process.stdin.close()
            process.terminate()

    def have_ended(self) -> bool:
        """Return whether no process is running."""
        return all(process is None or process.poll() is not None for process in self._running)

    def end(self) -> None:
        """Stop the processes; kill those that do not stop within `STOP_WAIT` seconds."""
        self.stop()
        deadline = time.monotonic() + STOP_WAIT
        for process in filter(None, self._running):
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        """Kill the processes."""
        for process in filter(None, self._running):
            process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        # The pipe closes when this process dies. In its own session, the child does not receive the Ctrl-C.
        return subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )


def attach(key: str, db_alias: str) -> None:
    """Work in a child process until the migration ends, the parent process dies, or SIGTERM is received."""
    ending = threading.Event()
    # No thread waits for this event, so a signal handler may set it.
    signal.signal(signal.SIGTERM, lambda number, frame: ending.set())
    threading.Thread(target=_watch_parent, args=(ending.set,), name="massmigration-parent", daemon=True).start()
    with in_this_process(store.get(key)):
        workers = LocalWorkers(key, db_alias)
        while not ending.is_set():
            current = progress.read(key, db_alias)
            if current is None or not current.is_active:
                break
            workers.keep_working(current)
            workers.wait(POLL)
        while not workers.stop(POLL):
            pass


def _watch_parent(end: Callable[[], None]) -> None:
    # Do not read sys.stdin: the interpreter could not shut down while a thread reads it.
    while os.read(0, 1):
        pass
    end()


def ends_with_process(migration: BaseMigration) -> bool:
    """Return whether the migration's backend runs its jobs in the process that sends them."""
    return isinstance(handler.backend_of(migration), (LocalBackend, ImmediateBackend))


def in_this_process(migration: BaseMigration) -> contextlib.AbstractContextManager[None]:
    """Run the migration's jobs in threads of this process, whatever its backend."""
    if isinstance(handler.backend_of(migration), LocalBackend):
        return contextlib.nullcontext()
    return handler.overriding(migration.key, LocalBackend())


class LocalWorkers:
    """The threads of this process that work on a migration, perhaps together with other workers."""

    def __init__(self, key: str, db_alias: str) -> None:
        self._key = key
        self._db_alias = db_alias
        self._joined: tuple[str, int, bool] | None = None
        self._sent_at = float("-inf")
        self._is_quiet = False
        pool.resume()

    def keep_working(self, current: Progress) -> None:
        """Send jobs for each attempt and stage, and run recovery regularly, which takes over shards of dead workers.

        Send jobs again if the threads are idle while shards wait for a worker, because the next job of a shard is in
        the process that had the shard. Send nothing while throttles keep workers from all shards.
        """
        stage = (current.attempt_id, current.stage, current.is_all_paused)
        has_waited = time.monotonic() - self._sent_at > JOIN_INTERVAL
        needs_jobs = stage != self._joined or (current.waiting and has_waited)
        if current.is_all_paused:
            self._joined = stage
        elif needs_jobs and not current.throttle and pool.wait_until_quiet(0):
            api.send(self._key, self._db_alias)
            self._joined, self._sent_at = stage, time.monotonic()
        worker.run_periodically(self._db_alias)

    def wait(self, seconds: float) -> None:
        """Wait, but return early when the threads have become idle."""
        if self._is_quiet:
            time.sleep(seconds)
        self._is_quiet = pool.wait_until_quiet(0 if self._is_quiet else seconds)

    def finish(self) -> None:
        """Wait for the last batches of a migration that has ended."""
        pool.wait_until_quiet(FINISH_WAIT)

    def stop(self, seconds: float = 0) -> bool:
        """Ask the threads to stop after their batches. Return whether they have stopped within `seconds`."""
        return pool.stop(seconds)
