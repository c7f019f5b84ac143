"""Starts the server of a database, and tells the processes that measure on it where it is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from testsupport.processes import RunFolder
from testsupport.services import MariaDB, PostgreSQL, Server

SERVERS: dict[str, type[Server]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}
DATABASES = ["postgresql", "mariadb", "sqlite"]


@contextlib.contextmanager
def started(database: str, run: RunFolder) -> Iterator[None]:
    """A durable server, without data. Raise `Unavailable`, which says what to install."""
    folder = run.make(f"bench-{database}")
    os.environ["BENCH_DATABASE"] = database
    os.environ["BENCH_FOLDER"] = str(folder)
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    server = SERVERS[database](is_durable=True) if database in SERVERS else None
    try:
        if server:
            os.environ[server.variable] = server.start(run)
        yield
    finally:
        if server:
            server.stop()
            os.environ.pop(server.variable, None)
            shutil.rmtree(getattr(server, "folder", folder), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
