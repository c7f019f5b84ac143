"""Real worker processes that tests start, freeze, kill and replace.

What a worker runs is the engine's own code: `LocalBackend` with its threads and its recovery. Its queue dies with it.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from django.test import override_settings

from massmigration import api, conf
from massmigration.backends import handler
from massmigration.backends.dummy import DummyBackend
from massmigration.models import MigrationRecord, ShardRecord
from testsupport import db_sessions
from testsupport.processes import process_states
from testsupport.threads import PATIENCE

DUMMY = "massmigration.backends.dummy.DummyBackend"
LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc)


def wait_until(is_so: Callable[[], Any], *, timeout: float = PATIENCE) -> Any:
    """Wait until `is_so` returns a true value, and return that."""
    deadline = time.monotonic() + timeout
    while not (answer := is_so()):
        assert time.monotonic() < deadline, f"Waited {timeout:.0f} s without success."
        time.sleep(0.02)
    return answer


class ForkServer:
    """The parent of all workers of this test process, which ends with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "testsupport.forkserver", str(os.getpid())],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "testsupport.settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.stop)

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "The fork server has ended; its error is in the captured output."
        return json.loads(answer)

    def stop(self) -> None:
        self._process.communicate()


@cache
def fork_server() -> ForkServer:
    return ForkServer()


def renew_fork_server() -> None:
    """Let the next worker take the servers' URLs from the environment as it is now."""
    if fork_server.cache_info().currsize:
        server = fork_server()
        server.stop()
        atexit.unregister(server.stop)
    fork_server.cache_clear()


@dataclasses.dataclass(eq=False)
class Worker:
    """A worker process."""

    pid: int
    db_alias: str
    log: Path
    sessions: Path
    exit_code: int | None = None

    def is_alive(self) -> bool:
        if self.exit_code is None:
            self.exit_code = fork_server().ask(poll=self.pid)
        return self.exit_code is None

    def freeze(self) -> None:
        """Freeze the process, and wait until the server has done what it had sent."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(self.is_frozen)
        time.sleep(db_sessions.SETTLES)

    def is_frozen(self) -> bool:
        return process_states()[self.pid][1] == "T"

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def hurry(self) -> None:
        """End the pauses in its operations."""
        os.kill(self.pid, signal.SIGUSR1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Ask the process to stop, as a service manager does, and return its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        wait_until(lambda: not self.is_alive())
        assert self.exit_code is not None
        return self.exit_code

    def has_uncommitted_work(self) -> bool:
        """Return whether a transaction of this worker is open in which an operation has written."""
        noted = self.sessions.read_text().split() if self.sessions.exists() else []
        return db_sessions.have_uncommitted_work(self.db_alias, [int(session) for session in noted])

    def has_logged(self, text: str) -> bool:
        return text in self.log.read_text()


class Fleet:
    """The workers of a test. Their settings apply to the test's process too; durations are in seconds."""

    def __init__(self, db_alias: str, *, threads: int = 1, **settings: Any) -> None:
        self.db_alias = db_alias
        self.workers: list[Worker] = []
        self._settings = settings | {"BACKEND_OPTIONS": {"workers": threads}}
        self._folder = Path(tempfile.mkdtemp(prefix="massmigration-workers-"))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Fleet:
        defaults = vars(conf.Settings)
        own = {
            f"MASSMIGRATION_{name}": dt.timedelta(seconds=value) if isinstance(defaults[name], dt.timedelta) else value
            for name, value in self._settings.items()
        }
        self._stack.enter_context(override_settings(**own, MASSMIGRATION_BACKEND=DUMMY))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()
        for worker in self.alive():
            worker.kill()
        for worker in self.workers:
            print(f"--- worker {worker.pid}, exit code {worker.exit_code}\n{worker.log.read_text()}")  # noqa: T201
        shutil.rmtree(self._folder)

    def start(
        self,
        *payloads: str,
        call: tuple[str, str] | None = None,
        die_at: str = "",
        freeze_at: str = "",
        pause: float = 0,
        runs: str = "",
    ) -> Worker:
        """Start a worker that first runs these jobs, or first performs an operator's action: `call=("launch", key)`.

        `die_at` and `freeze_at` name failpoints (`testsupport.failpoints`). Operations take `pause` seconds a row.
        """
        number = len(self.workers) + 1
        log, noted = self._folder / f"{number}.log", self._folder / f"{number}.sessions"
        log.touch()
        order = {
            "db_alias": self.db_alias,
            "payloads": payloads,
            "call": call,
            "settings": self._settings,
            "environ": {
                "MM_TEST_DIE_AT": die_at,
                "MM_TEST_FREEZE_AT": freeze_at,
                "MM_TEST_PAUSE": str(pause),
                "MM_TEST_RUNS": runs,
            },
            "log": str(log),
            "sessions": str(noted),
        }
        worker = Worker(pid=fork_server().ask(order=order), db_alias=self.db_alias, log=log, sessions=noted)
        self.workers.append(worker)
        wait_until(lambda: worker.has_logged("started"))
        return worker

    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_alive()]

    def owners(self) -> list[Worker]:
        """Return the workers that hold a shard now."""
        leased = ShardRecord.objects.using(self.db_alias).filter(is_done=False, lease_token__isnull=False)
        pids = {int(name.split(":")[1]) for name in leased.values_list("worker", flat=True)}
        return [worker for worker in self.alive() if worker.pid in pids]

    def launch(self, key: str) -> str:
        """Launch a migration, and return its plan job instead of sending it."""
        api.launch(key, self.db_alias, actor="code:test")
        return self.take_sent()

    def take_sent(self) -> str:
        """Return the one job that the test's own process has sent."""
        backend = handler.get_backend()
        assert isinstance(backend, DummyBackend)
        ((payload, _),) = backend.sent
        backend.clear()
        return payload

    def expire_leases(self) -> None:
        """End all leases and all waits of stuck jobs now, so that recovery does not wait for a dead worker."""
        ShardRecord.objects.using(self.db_alias).update(lease_until=LONG_AGO, next_send_at=LONG_AGO)
        MigrationRecord.objects.using(self.db_alias).update(next_send_at=LONG_AGO)

    def status(self) -> str:
        return str(MigrationRecord.objects.using(self.db_alias).values_list("status", flat=True).get())

    def wait_until_applied(self, *, timeout: float = PATIENCE) -> None:
        wait_until(lambda: self.status() not in ("queued", "running"), timeout=timeout)
        assert self.status() == "applied"
