"""A database server for the processes that measure on it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from testsupport.database_servers import DATABASE_SERVERS, DatabaseServer
from testsupport.processes import RunFolder

DATABASES = [*DATABASE_SERVERS, "sqlite"]


@contextlib.contextmanager
def started(database: str, run: RunFolder) -> Iterator[DatabaseServer | None]:
    """Return a durable server without data; None is SQLite. Raise `Unavailable`, which says what to install."""
    folder = run.make(f"bench-{database}")
    os.environ["BENCH_DATABASE"] = database
    os.environ["BENCH_FOLDER"] = str(folder)
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    server = DATABASE_SERVERS[database](is_durable=True) if database in DATABASE_SERVERS else None
    try:
        if server:
            os.environ[server.variable] = server.start(run)
        yield server
    finally:
        if server:
            server.stop()
            os.environ.pop(server.variable, None)
            shutil.rmtree(getattr(server, "folder", folder), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
