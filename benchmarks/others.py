"""`python -m benchmarks.others operations|queues`: what the ready-made operations, and what queues, cost."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from testsupport.processes import RunFolder
from testsupport.services import MariaDB, PostgreSQL, Redis, Server, Unavailable

SERVERS: dict[str, type[Server]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.others", description=__doc__)
    parser.add_argument("part", choices=["operations", "queues"])
    parser.add_argument("--database", action="append", choices=[*SERVERS], help="default: both; queues: PostgreSQL")
    parser.add_argument("--rows", type=int, help="default: 100,000 for operations, 1,000,000 for queues")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rows = options.rows or (100_000 if options.part == "operations" else 1_000_000)
    if options.inner:
        inner(options)
        return 0
    run = RunFolder()
    try:
        for database in ["postgresql"] if options.part == "queues" else options.database or [*SERVERS]:
            outer(database, options, run)
    finally:
        run.remove()
    return 0


def outer(database: str, options: argparse.Namespace, run: RunFolder) -> None:
    """Start the servers, and measure in a process of its own."""
    os.environ["BENCH_DATABASE"] = database
    os.environ["BENCH_FOLDER"] = str(run.make(f"bench-{database}"))
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    try:
        servers: list[Server] = [SERVERS[database](is_durable=True)]
        if options.part == "queues":
            servers.append(Redis())
    except Unavailable as error:
        print(f"{database}: not measured. {error}")
        return
    command = [sys.executable, "-m", "benchmarks.others", options.part, "--inner"]
    try:
        for server in servers:
            os.environ["BENCH_REDIS_URL" if isinstance(server, Redis) else server.variable] = server.start(run)
        subprocess.run([*command, "--rows", str(options.rows), "--repeat", str(options.repeat)], check=True)
    finally:
        for server in servers:
            server.stop()


def inner(options: argparse.Namespace) -> None:
    import django

    django.setup()
    from benchmarks import database, operations

    database.create()
    if options.part == "operations":
        print(f"{os.environ['BENCH_DATABASE']}, {options.rows:,} rows, to one raw statement:", flush=True)
        for name, ratio in operations.compare(options.rows, options.repeat).items():
            print(f"  {name:55} {ratio:6.2f}x", flush=True)
        return
    from benchmarks import celery_app, queues  # noqa: F401 - the app is the current one

    print(f"PostgreSQL, {options.rows:,} rows, update_fields path:", flush=True)
    for line in queues.compare(options.rows, options.repeat, Path(os.environ["BENCH_FOLDER"])):
        print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
