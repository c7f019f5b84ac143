"""The emulator, and Django servers that it delivers to: real processes, on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from massmigration_djangae import client
from testsupport.cloudtasks import signing
from testsupport.processes import answers, free_port
from testsupport.services import ROOT, run_folder
from testsupport.venvs import environment
from testsupport.worker_processes import wait_until

EMULATOR = "gcloud-tasks-emulator==0.6.2"
MAIN = Path(__file__).with_name("emulator_main.py")
QUEUE = "projects/example/locations/europe-west1/queues/default"


class Program:
    """A child process, which ends with the tests of this process, and its log."""

    def __init__(self, command: Sequence[object], name: str, port: int, **environ: str) -> None:
        self.port = port
        self.command = [str(word) for word in command]
        self.environ = {**os.environ, **environ}
        self.log = run_folder().path / f"{name}-{port}.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self._has_started, timeout=300)

    def _has_started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return answers(self.port)

    def kill(self) -> None:
        """Kill the process and its children, like the loss of a machine."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not answers(self.port))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.kill()
        print(f"--- {self.log.name}\n{self.log.read_text()[-5000:]}")  # noqa: T201


class Emulator(Program):
    """One emulator with one queue, `QUEUE`."""

    def __init__(self, target_port: int = 1, *, copies: int = 1, at_once: int = 4) -> None:
        port = free_port()
        arguments = ["start", "-p", port, "-H", "127.0.0.1", "-t", target_port, "-q", "-d", QUEUE]
        own = {"MM_TEST_COPIES": str(copies), "MM_TEST_AT_ONCE": str(at_once), "PYTHONPATH": ""}
        super().__init__([environment("emulator", [EMULATOR]), MAIN, *arguments], "emulator", port, **own)
        self.host = f"127.0.0.1:{port}"

    @property
    def client(self) -> Any:
        return client.get(self.host)

    def tasks(self) -> list[Any]:
        """Return the tasks that are waiting or being delivered."""
        return list(self.client.list_tasks(request={"parent": QUEUE}))

    def wait_until_empty(self, *, timeout: float = 300) -> None:
        wait_until(lambda: not self.tasks(), timeout=timeout)


class DjangoServer(Program):
    """Gunicorn with the test project, in a process group of its own."""

    def __init__(self, settings: dict[str, Any], *, workers: int = 4, port: int | None = None, **environ: str) -> None:
        port = port or free_port()
        signing.key()  # before, so that it is in the server's environment too
        command = [sys.executable, "-m", "gunicorn", "testsupport.cloudtasks.wsgi", "--bind", f"127.0.0.1:{port}"]
        command += ["--workers", str(workers), "--preload", "--timeout", "600", "--no-control-socket"]
        own = {
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "testsupport.cloudtasks.settings",
            "MM_TEST_SETTINGS": json.dumps(settings),
        }
        super().__init__(command, "django", port, **own, **environ)
