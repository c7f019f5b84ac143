"""django-mass-migration 0.3.9 as published, in a process and a folder of its own, for it has our import name."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.methods import PREDECESSOR

REQUIREMENTS = ["django-mass-migration==0.3.9", "django-gcloud-connectors==1.5.0"]
DJANGAE = "def retry_on_error():\n    return lambda function: function\n"
"""All that is called of `djangae.utils`, which needs Google's SDK."""

ROOT = Path(__file__).parent.parent


class Predecessor:
    """A measurement of django-mass-migration; `problem` says why it is not possible."""

    def __init__(self) -> None:
        self.problem = ""
        self._process: subprocess.Popen[str] | None = None
        try:
            folder = installed(Path(os.environ["BENCH_FOLDER"]))
            self._start(folder)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            self.problem = f"{PREDECESSOR} was not measured: {error}"

    def measure(self, rows: int) -> dict[str, float]:
        """Return the seconds per row by the name of the method, or nothing if it cannot be run."""
        try:
            return {PREDECESSOR: float(self._ask(str(rows))) / rows} if self._process else {}
        except (OSError, RuntimeError, ValueError) as error:
            self.problem, self._process = f"{PREDECESSOR} was not measured: {error}", None
            return {}

    def _start(self, folder: Path) -> None:
        path = os.pathsep.join([str(folder), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.old.drive"],
            env={**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "benchmarks.old.settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        if ready.split() != ["READY", "0.3.9"]:
            raise RuntimeError(f"its process answered {ready!r}")

    def _ask(self, question: str) -> str:
        assert self._process
        assert self._process.stdin
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process
        assert self._process.stdout
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"its process ended with code {self._process.wait(10)}")
        return answer.strip()


def installed(folder: Path) -> Path:
    """Install it without Google's libraries, which it does not need for this."""
    target = folder / "predecessor"
    if not target.exists():
        command = [*_installer(folder), "--quiet", "--no-deps", "--target", str(target), *REQUIREMENTS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(target, ignore_errors=True)
            raise RuntimeError((done.stderr.strip().splitlines() or ["it could not be installed"])[-1])
        (target / "djangae").mkdir()
        (target / "djangae" / "utils.py").write_text(DJANGAE)
    return target


def _installer(folder: Path) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install"]
    own = folder / "pip"  # environments made by uv have none
    venv.create(own, with_pip=True)
    return [str(own / "bin" / "python"), "-m", "pip", "install"]
