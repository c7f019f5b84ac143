"""A command that runs the `check.py` of an example, with Redis and a database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from testsupport.database_servers import PostgreSQL
from testsupport.processes import RunFolder
from testsupport.services import Redis

EXAMPLES = Path(__file__).parent.parent / "examples"
ON_POSTGRESQL = {"online"}
"""The examples that need another database than SQLite."""


def main(name: str) -> int:
    run = RunFolder()
    redis, postgresql = Redis(), PostgreSQL() if name in ON_POSTGRESQL else None
    try:
        redis.start(run)
        environ = {**os.environ, "REDIS_URL": redis.url, "EXAMPLE_DATABASE": str(run.path / "example.sqlite3")}
        if postgresql:
            environ["EXAMPLE_POSTGRES_URL"] = postgresql.start(run)
        folder = EXAMPLES / name
        return subprocess.run([sys.executable, "check.py"], cwd=folder, env=environ, check=False).returncode
    finally:
        redis.stop()
        if postgresql:
            postgresql.stop()
        run.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
