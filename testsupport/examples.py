"""A command that runs the `check.py` of an example, with Redis and a database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from testsupport.processes import RunFolder
from testsupport.services import Redis

EXAMPLES = Path(__file__).parent.parent / "examples"


def main(name: str) -> int:
    run = RunFolder()
    redis = Redis()
    try:
        redis.start(run)
        environ = {**os.environ, "REDIS_URL": redis.url, "EXAMPLE_DATABASE": str(run.path / "example.sqlite3")}
        folder = EXAMPLES / name
        return subprocess.run([sys.executable, "check.py"], cwd=folder, env=environ, check=False).returncode
    finally:
        redis.stop()
        run.remove()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
