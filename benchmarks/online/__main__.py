"""A command that changes a large table under writers and kills: `python -m benchmarks.online [--rows N] [...]`."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.servers import started
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.processes import RunFolder, StartError
from testsupport.services import Redis, Unavailable

QUEUES = ("local", "celery", "rq")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__)
    parser.add_argument("--database", action="append", choices=list(DATABASE_SERVERS), help="default: all")
    parser.add_argument("--queue", action="append", choices=QUEUES, help="default: all")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=3, help="worker processes")
    parser.add_argument("--rate", type=float, default=60, help="transactions a second of each of the four writers")
    parser.add_argument("--kills", type=int, default=5, help="SIGKILLs of workers")
    parser.add_argument("--pauses", type=int, default=2)
    parser.add_argument("--server-kills", type=int, default=1, help="SIGKILLs of the database server")
    parser.add_argument("--reader", type=float, default=0, metavar="S", help="seconds of a transaction at the cutover")
    parser.add_argument("--ratios", type=int, default=2, metavar="N", help="comparisons with INSERT ... SELECT")
    parser.add_argument("--no-load", action="store_true", help="only compare with INSERT ... SELECT")
    parser.add_argument("--control", choices=["lhm", "lhm-verified"], help="LHM's statements, on MariaDB or MySQL")
    options = parser.parse_args()
    if options.control and set(options.database or DATABASE_SERVERS) & {"postgresql"}:
        parser.error("--control has statements for --database mariadb and mysql alone")
    pairs = list(itertools.product(options.database or DATABASE_SERVERS, options.queue or QUEUES))
    if len(pairs) == 1:
        return _run(*pairs[0], options)
    codes = [_in_own_process(database, queue) for database, queue in pairs]
    return max(codes)


def _in_own_process(database: str, queue: str) -> int:
    command = [sys.executable, "-m", "benchmarks.online", *_without_choices(sys.argv[1:])]
    return subprocess.run([*command, "--database", database, "--queue", queue], check=False).returncode


def _without_choices(words: list[str]) -> list[str]:
    """Return the arguments without databases and queues."""
    left, rest = [], iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name not in ("--database", "--queue"):
            left.append(word)
        elif not equals:
            next(rest)
    return left


def _run(database: str, queue: str, options: argparse.Namespace) -> int:
    run = RunFolder()
    try:
        with started(database, run) as server:
            os.environ["DJANGO_SETTINGS_MODULE"] = "testsupport.settings"
            os.environ["TEST_SQLITE_DIR"] = os.environ["BENCH_FOLDER"]
            import django

            django.setup()
            from benchmarks.online import measurement

            redis = Redis()
            try:
                url = redis.start(run) if queue != "local" else ""
                return measurement.measure(
                    database, queue, options, folder=Path(os.environ["BENCH_FOLDER"]), server=server, redis_url=url
                )
            finally:
                redis.stop()
    except (Unavailable, StartError) as error:
        print(f"{database}: not measured. {error}")
        return 1
    finally:
        run.remove()


if __name__ == "__main__":
    sys.exit(main())
