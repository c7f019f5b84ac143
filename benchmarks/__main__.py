"""`python -m benchmarks [--database postgresql] [--rows 1000000]`: prints ratios, and what memory grows by."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from testsupport.processes import RunFolder
from testsupport.services import MariaDB, PostgreSQL, Server, Unavailable

SERVERS: dict[str, type[Server]] = {"postgresql": PostgreSQL, "mariadb": MariaDB}
MEBIBYTE = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--database", action="append", choices=["sqlite", *SERVERS], help="default: all three")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=20_000, help="rows for the slow methods")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=["speed", "memory"])
    parser.add_argument("--inner", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        return inner(options)
    run = RunFolder()
    try:
        for database in options.database or ["sqlite", *SERVERS]:
            outer(database, options, run)
    finally:
        run.remove()
    return 0


def outer(database: str, options: argparse.Namespace, run: RunFolder) -> None:
    """Start the server, and measure in processes of their own."""
    os.environ["BENCH_DATABASE"] = database
    os.environ["BENCH_FOLDER"] = str(run.make(f"bench-{database}"))
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    server = None
    if database in SERVERS:
        try:
            server = SERVERS[database](is_durable=True)
        except Unavailable as error:
            print(f"{database}: not measured. {error}")
            return
        os.environ[server.variable] = server.start(run)
    try:
        arguments = [sys.executable, "-m", "benchmarks", "--rows", str(options.rows), "--sample", str(options.sample)]
        arguments += ["--repeat", str(options.repeat), "--inner"]
        if options.only != "memory":
            subprocess.run([*arguments, "speed"], check=True)
        if options.only != "speed":
            report_memory(arguments, options.rows)
    finally:
        if server:
            server.stop()
            del os.environ[server.variable]


def report_memory(arguments: list[str], rows: int) -> None:
    for method in ("update_fields path", "operation_batch path"):
        peaks = []
        for count in (rows // 10, rows):
            command = [*arguments, "memory", str(count), method]
            peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        grown = (peaks[1] - peaks[0]) / MEBIBYTE
        print(
            f"  {method}: peak memory {peaks[0] / MEBIBYTE:.0f} MiB with {rows // 10:,} rows, "
            f"{grown:+.1f} MiB with {rows:,}"
        )


def inner(options: argparse.Namespace) -> int:
    import django

    django.setup()
    from benchmarks import database, measuring

    database.create()
    if options.inner[0] == "memory":
        print(measuring.peak_memory(int(options.inner[1]), options.inner[2]))
        return 0
    print(f"{os.environ['BENCH_DATABASE']}, {options.rows:,} rows, to one raw UPDATE of the same rows:", flush=True)
    for name, ratio in measuring.compare(options.rows, options.sample, options.repeat).items():
        print(f"  {name:55} {ratio:6.2f}x", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
