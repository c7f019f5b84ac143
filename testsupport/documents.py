"""A project on an emulator of Datastore or Firestore, in a process of its own that answers what tests ask."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from typing import Any

from testsupport.cloudtasks.djangae import PROJECT, interpreter
from testsupport.firestore import Datastore, Firestore
from testsupport.services import run_folder

KINDS: dict[str, type[Firestore]] = {"datastore": Datastore, "firestore": Firestore}
DURATIONS = {"LEASE": 20, "JOB_DURATION": 5, "BATCH_DURATION": 0.5}


def database_of(server: Firestore) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the database setting for a started server, and the environment variables that lead to it."""
    indexes = run_folder().path / f"{server.engine}.indexes"
    indexes.touch()
    engine = f"gcloudc.db.backends.{server.engine}"
    database = {"ENGINE": engine, "PROJECT": "example", "INDEXES_FILE": str(indexes), "OPTIONS": {}}
    environ = {server.told_by: server.url, "DATASTORE_PROJECT_ID": "example", "GOOGLE_CLOUD_PROJECT": "example"}
    return database, environ


class Raised(AssertionError):
    """A scenario has raised an exception."""


class Project:
    """A project in a separate process, which runs the functions of `scenarios.py` that `ask` names."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.server = KINDS[kind]()
        self.server.start(run_folder())
        database, environ = database_of(self.server)
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "DJANGO_SETTINGS_MODULE": "settings",
            "MM_TEST_DATABASE": json.dumps(database),
            "MM_TEST_DURATIONS": json.dumps(DURATIONS),
            "TASKS_EMULATOR_HOST": "127.0.0.1:1",
            **environ,
        }
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start another process that runs scenarios; `ask` has one of its own."""
        return subprocess.Popen(
            [interpreter(), "drive.py", "serve"],
            cwd=PROJECT,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Run a function of the scenarios. Raise `Raised` with its traceback if it raises."""
        self._process = self._process or self.start()
        return ask(self._process, name, *arguments, **options)

    def empty(self) -> None:
        """Delete every entity."""
        paths = {
            "datastore": ("POST", "/reset"),
            "firestore": ("DELETE", "/emulator/v1/projects/example/databases/(default)/documents"),
        }
        method, path = paths[self.kind]
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.server.url}{path}", method=method)):
            pass
        if self._process is not None:
            self.ask("empty")

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
        self.server.stop()


def end(process: subprocess.Popen[str]) -> None:
    with process:  # closes its pipes
        process.kill()


def ask(process: subprocess.Popen[str], name: str, *arguments: Any, **options: Any) -> Any:
    """Run a function of the scenarios in one of the processes, and return its result."""
    send(process, name, *arguments, **options)
    return answer(process)


def send(process: subprocess.Popen[str], name: str, *arguments: Any, **options: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps([name, arguments, options]) + "\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "The process has ended."
    found = json.loads(line)
    if "raised" in found:
        raise Raised(found["raised"])
    return found["found"]
