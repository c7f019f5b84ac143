"""Workers of a queue, started by the queue's own command, that tests freeze, kill and replace.

Every process with the tests' settings takes what `ProcessFleet` puts into its environment: settings by
`testsupport.settings`, the rest by `equip`, which the test app calls when Django is ready.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections
from django.test import override_settings
from django.utils.module_loading import import_string

from massmigration import conf
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.paging import sharding
from testsupport import db_sessions, failpoints
from testsupport.forked_command import ForkedCommand
from testsupport.processes import process_states
from testsupport.worker_process import note_sessions
from testsupport.worker_processes import wait_until

SLOW = 300.0
"""Seconds that starting a process may take on a machine that does much else."""

GONE = "Z"
FROZEN = "T"


@dataclasses.dataclass(eq=False)
class ProcessWorker:
    """A worker: the process that was started, and its child processes."""

    process: ForkedCommand
    db_alias: str
    log: Path
    sessions: Path
    frozen: list[int] = dataclasses.field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def pids(self) -> list[int]:
        """Return the process ids of the worker, the first process first."""
        return _with_descendants(self.pid)

    def freeze(self) -> None:
        """Freeze all processes, and wait until servers have done what they had sent."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: process_states().get(self.pid, (0, GONE))[1] == FROZEN)  # it starts no more processes
        self.frozen = self.pids()
        for pid in self.frozen[1:]:
            _signal(pid, signal.SIGSTOP)
        wait_until(lambda: all(process_states().get(pid, (0, GONE))[1] in (FROZEN, GONE) for pid in self.frozen))
        time.sleep(db_sessions.SETTLES)

    def thaw(self) -> None:
        for pid in self.frozen:
            _signal(pid, signal.SIGCONT)
        self.frozen = []

    def kill(self) -> None:
        """Kill all processes at once, like the loss of a machine."""
        for pid in self.frozen or self.pids():
            _signal(pid, signal.SIGKILL)
        self.process.wait()

    def kill_children(self) -> int:
        """Kill only the processes that run jobs, as the kernel does when memory is short. Return their number."""
        children = self.pids()[1:]
        for pid in children:
            _signal(pid, signal.SIGKILL)
        return len(children)

    def terminate(self) -> None:
        """Ask the worker to stop, as a service manager does."""
        self.process.terminate()

    def wait(self, timeout: float = SLOW) -> int:
        return self.process.wait(timeout)

    def has_uncommitted_work(self) -> bool:
        """Return whether a transaction of this worker is open in which an operation has written."""
        noted = self.sessions.read_text().split() if self.sessions.exists() else []
        return db_sessions.have_uncommitted_work(self.db_alias, [int(session) for session in noted])

    def has_logged(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")


class ProcessFleet:
    """The workers of a test. Their settings apply to the test's process too; durations are in seconds.

    `command` starts a worker that logs `ready` when it takes jobs; "{name}" in it becomes a name of its own.
    `environ` is for the workers alone; `MM_TEST_EQUIPMENT` in it names functions that each worker calls at its start.
    Settings are named without `MASSMIGRATION_`, `more` by their full names.
    """

    def __init__(
        self,
        db_alias: str,
        command: Sequence[str],
        *,
        ready: str,
        environ: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.db_alias = db_alias
        self.workers: list[ProcessWorker] = []
        self.kills_inside = 0
        self._command = list(command)
        self._ready = ready
        self._environ = environ or {}
        self._overrides = {**_named(settings), **(more or {})}
        self._folder = Path(tempfile.mkdtemp(prefix="massmigration-fleet-"))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ProcessFleet:
        self._stack.enter_context(override_settings(**self._overrides))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()
        for worker in self.alive():
            worker.kill()
        for worker in self.workers:
            log = worker.log.read_text(errors="replace")
            print(f"--- worker {worker.pid}, exit code {worker.process.returncode}\n{log}")  # noqa: T201
        shutil.rmtree(self._folder)

    def begin(self, *, pause: float = 0, command: Sequence[str] = (), die_at: str = "") -> ProcessWorker:
        """Start a worker without waiting for it. Operations take `pause` seconds a row."""
        name = f"w{len(self.workers) + 1}"
        log, noted = self._folder / f"{name}.log", self._folder / f"{name}.sessions"
        environ = {
            **os.environ,
            **self._environ,
            "DJANGO_SETTINGS_MODULE": "testsupport.settings",
            "MM_TEST_OVERRIDES": json.dumps(self._overrides, default=_encoded),
            "MM_TEST_SESSIONS": str(noted),
            "MM_TEST_ALIAS": self.db_alias,
            "MM_TEST_PAUSE": str(pause),
            "MM_TEST_HURRY": str(self._folder / "hurry"),
            "MM_TEST_DIE_AT": die_at,
        }
        log.touch()
        words = [word.replace("{name}", name) for word in command or self._command]
        process = ForkedCommand(words, environ=environ, log=log)
        worker = ProcessWorker(process=process, db_alias=self.db_alias, log=log, sessions=noted)
        self.workers.append(worker)
        return worker

    def start(self, count: int = 1, **how: Any) -> list[ProcessWorker]:
        """Start workers as `begin` does, and wait until they take jobs."""
        started = [self.begin(**how) for _ in range(count)]
        for worker in started:
            wait_until(lambda worker=worker: worker.has_logged(self._ready) or not worker.is_alive(), timeout=SLOW)
            assert worker.is_alive(), worker.log.read_text(errors="replace")
        return started

    def hurry(self) -> None:
        """End the pauses in operations."""
        (self._folder / "hurry").touch()

    def slow_down(self) -> None:
        """Let operations pause again."""
        (self._folder / "hurry").unlink(missing_ok=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command in a process of its own, with the fleet's settings; return the finished process."""
        environ = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "testsupport.settings",
            "MM_TEST_OVERRIDES": json.dumps(self._overrides, default=_encoded),
        }
        words = [sys.executable, "-m", "django", *arguments]
        return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=SLOW, check=False)

    def alive(self) -> list[ProcessWorker]:
        return [worker for worker in self.workers if worker.is_alive()]

    def owners(self) -> list[ProcessWorker]:
        """Return the workers that hold a shard now."""
        held = ShardRecord.objects.using(self.db_alias).filter(is_done=False, lease_token__isnull=False)
        pids = {int(name.split(":")[1]) for name in held.values_list("worker", flat=True)}
        return [worker for worker in self.alive() if not worker.frozen and pids & set(worker.pids())]

    def kill_one(self, rng: random.Random, *, is_inside: bool = False, within: float = 0.5) -> ProcessWorker:
        """Kill a worker that holds a shard, at a random time; count kills inside of transactions.

        `is_inside`: at a random time, but in a transaction in which an operation has written.
        """
        while True:
            victim = rng.choice(wait_until(self.owners, timeout=SLOW))
            time.sleep(rng.uniform(0, within))
            assert self.status() == "running"
            victim.freeze()
            found = victim.has_uncommitted_work()
            if found or not is_inside:
                self.kills_inside += found
                victim.kill()
                return victim
            victim.thaw()

    def status(self) -> str:
        return str(MigrationRecord.objects.using(self.db_alias).values_list("status", flat=True).get())

    def done(self) -> int:
        """Return how many objects are done, as counted by the shards."""
        return sum(ShardRecord.objects.using(self.db_alias).values_list("processed", flat=True))

    def wait_until_applied(self, *, timeout: float = SLOW) -> float:
        """Wait until the migration is applied; return how many seconds that took."""
        started = time.monotonic()
        wait_until(lambda: self.status() not in ("queued", "running"), timeout=timeout)
        assert self.status() == "applied"
        return time.monotonic() - started


def equip() -> None:
    """Make this process a worker of a fleet if its environment says so."""
    if "MM_TEST_OVERRIDES" in os.environ:
        sharding.MIN_SHARD_SIZE = 1  # so that small tables are split, too
        if hasattr(settings, "CELERY_BROKER_URL"):  # without an app, Celery uses a broker of this machine
            importlib.import_module("testsupport.celery_app")
    for path in filter(None, os.environ.get("MM_TEST_EQUIPMENT", "").split(",")):
        import_string(path)()
    if path := os.environ.get("MM_TEST_SESSIONS"):
        note_sessions(path)
        failpoints.arm()
        connections[os.environ["MM_TEST_ALIAS"]]  # imports the driver once, and not in each process that runs a job


def _named(given: dict[str, Any]) -> dict[str, Any]:
    defaults = vars(conf.Settings)
    return {
        f"MASSMIGRATION_{name}": dt.timedelta(seconds=value) if isinstance(defaults[name], dt.timedelta) else value
        for name, value in given.items()
    }


def _encoded(value: Any) -> dict[str, float]:
    assert isinstance(value, dt.timedelta)
    return {"seconds": value.total_seconds()}


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _with_descendants(pid: int) -> list[int]:
    states = process_states()
    found = [pid]
    for ancestor in found:
        found += [child for child, (parent, state) in states.items() if parent == ancestor and state != GONE]
    return found
