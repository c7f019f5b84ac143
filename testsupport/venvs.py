"""Virtual environments for programs with other requirements, created once in a test run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

VARIABLE = "TEST_VENVS_DIR"


def environment(name: str, requirements: Sequence[str], *, python: str = sys.executable) -> Path:
    """Return the interpreter of an environment with these requirements. Fail the test if pip cannot install them."""
    folder = Path(os.environ[VARIABLE]) / name
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of pytest-xdist share it
        interpreter = folder / "bin" / "python"
        if not (folder / "complete").exists():
            _run(["venv", "--quiet", "--allow-existing", "--python", python, str(folder)], requirements)
            _run(["pip", "install", "--quiet", "--python", str(interpreter), *requirements], requirements)
            (folder / "complete").touch()
    return interpreter


def _run(arguments: list[str], requirements: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.fail(
            f"This test needs {', '.join(requirements)} from the package index, and could not install it: {reason}",
            pytrace=False,
        )
