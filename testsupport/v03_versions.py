"""django-mass-migration 0.3.9 itself, in a folder of its own, and a project that was written for it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from testsupport import databases
from testsupport.processes import RunFolder
from testsupport.settings import DATABASE_NAME

REQUIREMENTS = ["django-mass-migration==0.3.9", "django-gcloud-connectors==1.5.0"]
DJANGAE = """
def retry_on_error():
    return lambda function: function
"""
"""All that is called of `djangae.utils`, which needs Google's SDK."""

PROJECT = Path(__file__).parent / "v03_project"

INLINE = "shop.backends.InlineBackend"
IMMEDIATE = "massmigration.backends.immediate.ImmediateBackend"

HISTORY = ["shop:0001_simple", "shop:0005_broken", "shop:0006_for_ever", "shop:0007_fails"]
"""What the project has launched with django-mass-migration: applied, applied in spite of errors, running, failed."""


def install(run_folder: RunFolder) -> Path:
    """Install it without Google's libraries, which its records do not need. Fail the test if pip cannot."""
    target = run_folder.make("v03")
    command = [*_pip(run_folder), "install", "--quiet", "--no-deps", "--no-compile", "--target", str(target)]
    command += ["--retries", "2", "--timeout", "20"]
    done = subprocess.run([*command, *REQUIREMENTS], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.fail(
            f"This test needs {REQUIREMENTS[0]} from the package index, and could not install it: {reason}",
            pytrace=False,
        )
    (target / "djangae").mkdir()
    (target / "djangae" / "utils.py").write_text(DJANGAE)
    return target


def _pip(run_folder: RunFolder) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    folder = run_folder.make("pip")  # environments made by uv have none
    venv.create(folder, with_pip=True)
    return [str(folder / "bin" / "python"), "-m", "pip"]


class V03Project:
    """The project, on the database that an alias of the test project stands for now."""

    def __init__(self, alias: str, package: Path) -> None:
        self._alias = alias
        self._package = package

    def run_old(self, *arguments: str) -> dict[str, Any]:
        """Run `drive.py` with django-mass-migration, and return what it prints."""
        path = os.pathsep.join([str(self._package), str(PROJECT)])
        return dict(json.loads(self._run(["drive.py", *arguments], INLINE, PYTHONPATH=path).stdout))

    def run_new(self, *arguments: str, backend: str = INLINE) -> dict[str, Any]:
        """Run `drive.py` with massmigration, and return what it prints."""
        return dict(json.loads(self._run(["-W", "error", "drive.py", *arguments], backend).stdout))

    def manage(self, *arguments: str, backend: str = INLINE) -> str:
        """Run `manage.py` with massmigration, and return what it prints."""
        done = self._run(["-W", "error", "manage.py", *arguments], backend)
        return done.stdout + done.stderr

    def _run(self, arguments: list[str], backend: str, **environ: str) -> subprocess.CompletedProcess[str]:
        given = settings.DATABASES[self._alias]
        names = ["ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"]
        own = {
            "DJANGO_SETTINGS_MODULE": "v03_settings",
            "V03_PROJECT_BACKEND": backend,
            "V03_PROJECT_DATABASE": json.dumps({name: given[name] for name in names if name in given}),
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env={**os.environ, **own, **environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done


class History:
    """Databases in which `HISTORY` was launched with django-mass-migration: made once, and copied for each test."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._names: dict[str, str] = {}

    @contextlib.contextmanager
    def project(self, alias: str) -> Iterator[V03Project]:
        """Return the project in a copy, to which the alias is connected until the block ends."""
        project = V03Project(alias, self._package)
        if alias not in self._names:
            with _renamed(alias, "history") as name:
                databases.create_empty(alias)
                project.run_old("set_up", *HISTORY)
                self._names[alias] = name
        with other_database(alias, copy_of=self._names[alias]):
            yield project

    def drop(self) -> None:
        for alias in self._names:
            with _renamed(alias, "history"):
                databases.drop(alias)


@contextlib.contextmanager
def other_database(alias: str, *, copy_of: str = "") -> Iterator[None]:
    """Connect an alias to a database of its own until the block ends: an empty one, or a copy of another."""
    with _renamed(alias, "v03"):
        try:
            if copy_of:
                databases.create_copy(alias, copy_of)
            else:
                databases.create_empty(alias)
            yield
        finally:
            databases.drop(alias)


@contextlib.contextmanager
def _renamed(alias: str, suffix: str) -> Iterator[str]:
    """Let an alias stand for a database with another name, which may not exist yet, until the block ends."""
    given = connections.databases[alias]
    name = str(given["NAME"])
    connections[alias].close()
    given["NAME"] = name.replace(DATABASE_NAME, f"{DATABASE_NAME}_{suffix}")
    try:
        yield given["NAME"]
    finally:
        connections[alias].close()
        given["NAME"] = name
