"""A djangae project in an environment of its own, with the `[djangae]` extra, and servers of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from testsupport.cloudtasks.servers import Emulator, Program
from testsupport.processes import free_port
from testsupport.services import ROOT
from testsupport.venvs import environment

PROJECT = ROOT / "testsupport" / "djangae_project"
PACKAGES = ROOT / "packages"
REQUIREMENTS = [
    *("--editable", str(PACKAGES / "massmigration-core")),
    *("--editable", f"{PACKAGES / 'massmigration-djangae'}[djangae]"),
    "gunicorn",
    "psycopg[binary]>=3.1.8",
]
NAMES = ["ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"]


def interpreter() -> Path:
    return environment("djangae", REQUIREMENTS)


class DjangaeProject:
    """The project on one database, its server, and the emulator that delivers to it."""

    def __init__(self, database: Mapping[str, Any], *, copies: int = 1, workers: int = 2, **environ: str) -> None:
        self.python = interpreter()
        port = free_port()
        self.emulator = Emulator(port, copies=copies)
        self.environ = {
            "PYTHONPATH": str(PROJECT),
            "DJANGO_SETTINGS_MODULE": "settings",
            "MM_TEST_DATABASE": json.dumps(database),
            "TASKS_EMULATOR_HOST": self.emulator.host,
            **environ,
        }
        self._command = [self.python, "-m", "gunicorn", "wsgi", "--bind", f"127.0.0.1:{port}"]
        self._command += ["--workers", str(workers), "--threads", "4", "--timeout", "600", "--no-control-socket"]
        self._port = port
        self.server: Program | None = None

    def start(self) -> None:
        self.server = Program(self._command, "djangae", self._port, **self.environ)

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.emulator.stop()

    def drive(self, *arguments: object, timeout: float = 300) -> Any:
        """Run `drive.py` and return what it prints."""
        return json.loads(self._run("drive.py", *arguments, timeout=timeout).splitlines()[-1])

    def manage(self, *arguments: object) -> str:
        return self._run("manage.py", *arguments)

    def _run(self, *arguments: object, timeout: float = 300) -> str:
        done = subprocess.run(
            [self.python, *map(str, arguments)],
            cwd=PROJECT,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr if arguments[0] == "manage.py" else done.stdout
