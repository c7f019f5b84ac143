"""Rows a second on one queue of Cloud Tasks' emulator, compared with django-mass-migration 0.3.9."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import ratios
from benchmarks.options import Sizes

TITLE = "Cloud Tasks: rows a second on the emulator, one queue, one object saved and one row inserted a call"
DATABASES = ("postgresql",)

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "testsupport" / "djangae_project"
OWN = ROOT / "benchmarks" / "cloud"
EMULATOR = ROOT / "examples" / "cloud_tasks" / "emulator.py"
QUEUE = "projects/example/locations/europe-west1/queues/default"
SERVER = ["-m", "gunicorn", "wsgi", "--workers", "2", "--threads", "8", "--timeout", "600", "--no-control-socket"]
PATIENCE = 60

NEW, OLD = "massmigration", "django-mass-migration 0.3.9"
PACKAGES = ROOT / "packages"
EDITABLE = ["-e", str(PACKAGES / "massmigration-core"), "-e", f"{PACKAGES / 'massmigration-djangae'}[djangae]"]
LIBRARIES = ["djangae==2.0.0rc5", "django-gcloud-connectors==1.5.0", "gunicorn", "psycopg[binary]"]
REQUIREMENTS = {
    NEW: [*EDITABLE, *LIBRARIES],
    OLD: ["django-mass-migration==0.3.9", *LIBRARIES],
    "emulator": ["gcloud-tasks-emulator==0.6.2"],
}
SETTINGS = {NEW: "settings", OLD: "old_settings"}


def measure(sizes: Sizes) -> dict[str, Any]:
    """Return seconds and rows of each run, of each version in turn, with new servers and a new database each time."""
    folder = Path(os.environ["BENCH_FOLDER"])
    found: dict[str, Any] = {"rows": sizes.slow, NEW: [], OLD: []}
    with contextlib.ExitStack() as programs:
        pythons = {name: environment(folder / name.split()[0], needed) for name, needed in REQUIREMENTS.items()}
        emulator, site = free_port(), free_port()
        os.environ["TASKS_EMULATOR_HOST"] = f"127.0.0.1:{emulator}"
        start = ["start", "-q", "-p", emulator, "-H", "127.0.0.1", "-t", site, "-d", QUEUE]
        programs.enter_context(program(folder / "emulator.log", emulator, pythons["emulator"], EMULATOR, *start))
        for turn in range(sizes.repeat):
            for name in (NEW, OLD):
                environ = environ_of(name, f"benchmark_cloud_{turn}_{SETTINGS[name]}")
                with program(folder / "site.log", site, pythons[name], *SERVER, "-b", f"127.0.0.1:{site}", **environ):
                    found[name].append(run(pythons[name], sizes.slow, environ))
    return found


def run(python: Path, rows: int, environ: dict[str, str]) -> dict[str, Any]:
    command = [python, OWN / "run.py", str(rows)]
    done = subprocess.run(
        command, env={**os.environ, **environ}, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def environ_of(name: str, database: str) -> dict[str, str]:
    """Create a database of this name, and return the environment by which the project finds it."""
    url = os.environ["TEST_POSTGRES_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {database}")
        connection.execute(f"CREATE DATABASE {database}")
        info = connection.info
        given = {"USER": info.user, "PASSWORD": info.password, "HOST": info.host, "PORT": info.port}
    entry = {"ENGINE": "django.db.backends.postgresql", "NAME": database, **given}
    path = os.pathsep.join([str(PROJECT), str(OWN)])
    return {"MM_TEST_DATABASE": json.dumps(entry), "DJANGO_SETTINGS_MODULE": SETTINGS[name], "PYTHONPATH": path}


def environment(folder: Path, requirements: list[str]) -> Path:
    """Return the interpreter of a separate environment: the requirements of the three programs conflict."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True, stdout=sys.stderr)
    return python


@contextlib.contextmanager
def program(log: Path, port: int, *command: object, **environ: str) -> Iterator[None]:
    """Run a program until the block ends."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(map(str, command)), env={**os.environ, **environ}, cwd=PROJECT, stdout=out, stderr=out
        )
    try:
        until = time.monotonic() + PATIENCE
        while not listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(log.read_text(errors="replace")[-2000:])
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def render(result: dict[str, Any]) -> list[str]:
    """Return a table of both rates and their ratio for each run."""
    rates = {name: [each["rows"] / each["seconds"] for each in result[name]] for name in (NEW, OLD)}
    lines = [
        f"{result['rows']} rows.",
        "",
        "| | rows a second: median | least–greatest | calls a row |",
        "|---|---|---|---|",
    ]
    for name, found in rates.items():
        calls = statistics.mean(each["calls"] / each["rows"] for each in result[name])
        lines.append(f"| {name} | {ratios.shown(ratios.summary(found), '')} | {calls:.4f} |")
    pairs = [new / old for new, old in zip(rates[NEW], rates[OLD], strict=True)]
    return [*lines, "", f"Ratio: {ratios.shown(ratios.summary(pairs))} (median, least–greatest of the pairs)."]
