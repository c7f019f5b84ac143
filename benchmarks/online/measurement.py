"""The measurement of one database and one queue, printed as lines with targets."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.outer import machine
from massmigration_schema import ledger, reports
from testsupport import databases
from testsupport.database_servers import DatabaseServer
from testsupport.fleet import ProcessFleet
from testsupport.online import batches, lhm, verdict
from testsupport.online.fleets import keep_doubling, online_fleet
from testsupport.online.run import Faults, OnlineRun, Waits, waits
from testsupport.online.scene import KEY, LOADED_TABLES, OPERATIONS, LoadedShop
from testsupport.online.writers import Report, Writers
from testsupport.shop_app import installed

PATIENCE = 1800.0
BEFORE = 5.0
"""Seconds in which the writers are measured without a change."""

BEFORE_SWAP, AFTER_SWAP = 1.5, 0.5
"""The seconds around the swap that count as the cutover. Workers of `local` start before."""

MAX_STALL = 1.0
"""The default of `Online.max_stall`, in seconds."""


def measure(
    database: str, queue: str, options: argparse.Namespace, *, folder: Path, server: DatabaseServer, redis_url: str
) -> int:
    """Print the figures. Return 1 if a row is wrong, or none in a control."""
    print(f"### {database}, {queue}: {options.rows:,} rows, {machine()['what']}", flush=True)
    for alias in ("default", database):
        databases.create(alias)
    session = Session(database, queue, options, folder, redis_url)
    for number in range(options.ratios):
        session.compare_copies(number)
    return 0 if options.no_load else session.run_under_load(server)


class Session:
    """The tables, the workers and the figures of one database and one queue."""

    def __init__(self, db_alias: str, queue: str, options: argparse.Namespace, folder: Path, redis_url: str) -> None:
        self.db_alias, self.queue, self.options = db_alias, queue, options
        self._folder, self._redis_url = folder, redis_url

    @contextlib.contextmanager
    def workers(self, name: str, *equipment: Callable[[], None]) -> Iterator[tuple[LoadedShop, ProcessFleet]]:
        """Return new tables, and a fleet whose workers have started."""
        shop = LoadedShop(self.db_alias)
        shop.make(self.options.rows)
        folder = self._folder / name
        folder.mkdir()
        more = {"max_batch_size": 20_000} if self.options.control else {}
        with (
            _shown_after_an_error(),
            installed(shop, folder, OPERATIONS, tables=LOADED_TABLES, direct_up_to=0, **more),
            online_fleet(self.queue, self.db_alias, folder, self._redis_url, equipment=equipment) as fleet,
        ):
            if self.queue != "local":
                fleet.start(self.options.workers)
            yield shop, fleet
        databases.empty(self.db_alias)

    def compare_copies(self, number: int) -> None:
        """Copy all rows by one statement, then by the workers, without writers."""
        with self.workers(f"ratio{number}") as (shop, fleet):
            change = reports.find("shop", "0002")
            swap, rows = change.swap(self.db_alias), change.rows(self.db_alias)
            names = swap.tables.names
            swap.tables.build()
            began = time.time()
            shop.execute(
                f"INSERT INTO {names.shadow} ({rows.names}) SELECT {rows.expressions('o')} FROM {names.origin} o"
            )
            single = time.time() - began
            swap.abort()
            run = OnlineRun(fleet, shop, workers=self.options.workers, patience=PATIENCE)
            run.copy(Faults())
            run.compare()
            change.abort(self.db_alias, "benchmark")
        copied = run.seconds("copy began", "copy ended")
        verified = run.seconds("verification began", "verification ended")
        say(
            f"copy without writers: {self.options.rows / copied:,.0f} rows/s; of one INSERT ... SELECT: "
            f"{single / copied:.2f}",
            "at least 0.5",
            single / copied >= 0.5,
        )
        say(f"verification / copy: {verified / copied:.2f}", "at most 0.4", verified / copied <= 0.4)

    def run_under_load(self, server: DatabaseServer) -> int:
        """Change the table beside writers, with faults, and compare all rows with what they have committed."""
        options = self.options
        # This process is a client of the other queues, and sends doubles itself.
        equipment = [batches.note_batches, *([keep_doubling] if self.queue == "local" else [])]
        if options.control:
            equipment.append(lhm.unverified if options.control == "lhm" else lhm.verified)
        with self.workers("load", *equipment) as (shop, fleet):
            run = OnlineRun(fleet, shop, workers=options.workers, patience=PATIENCE, seed=options.rows)
            with Writers(self.db_alias, options.rows, rate=options.rate, in_processes=True) as writers:
                run.times["writers began"] = time.time()
                time.sleep(BEFORE)
                faults = Faults(kills=options.kills, pauses=options.pauses, server_kills=options.server_kills)
                run.copy(Faults() if options.control else faults, server)
                run.compare()
                time.sleep(2)
                run.cut_over(reader_seconds=options.reader)
                time.sleep(3)
                found = writers.stop()
            result = verdict.judge(shop, options.rows, found)
            run.times["swapped"] = swapped_at(self.db_alias)
            reports.find("shop", "0002").clean_up(self.db_alias, "benchmark")
        self._tell(run, found, result)
        if options.control:
            return 0 if result.bad_rows or options.control == "lhm-verified" else 1
        return 1 if result.bad_rows or result.errors or result.copied_twice else 0

    def _tell(self, run: OnlineRun, found: list[Report], result: verdict.Verdict) -> None:
        times = run.times
        print("  " + "; ".join(run.told) + ("; the copy ended before all faults" if run.is_too_late else ""))
        copied = run.seconds("copy began", "copy ended")
        print(f"  copy with faults: {copied:.1f} s, {self.options.rows / copied:,.0f} rows/s")
        before = waits(found, times["writers began"] + 1, times["launched"])
        during = waits(found, times["copy began"], times["copy ended"])
        around = waits(found, times["swapped"] - BEFORE_SWAP, times["swapped"] + AFTER_SWAP)
        print(f"  writers before: {before}")
        worst = "" if self.options.server_kills else "worst at most 500 ms"
        say(
            f"writers in the copy: {during}, {during.median / (before.median or 1):.1f} times the median before",
            f"at most 3 times{', ' if worst else ''}{worst}",
            during.median <= 3 * before.median and (not worst or during.worst <= 0.5),
        )
        limit = MAX_STALL if self.options.reader else 0.05
        self._tell_cutover(around, limit)
        total = sum(len(each.latencies) for each in found)
        print(f"  {total} transactions, {sum(each.lost for each in found)} connections lost")
        bad = {name: len(getattr(result, name)) for name in ("missing", "wrong", "back_to_life", "unknown", "children")}
        say(f"rows: {bad}", "0", not result.bad_rows)
        say(f"errors of the writers: {dict(result.errors)}", "none but one unknown column each", not result.errors)
        say(f"rows copied twice: {result.copied_twice}", "0", not result.copied_twice)

    def _tell_cutover(self, around: Waits, limit: float) -> None:
        say(f"writers around the cutover: {around}", f"worst at most {limit * 1000:.0f} ms", around.worst <= limit)


def swapped_at(db_alias: str) -> float:
    found = ledger.require(db_alias, KEY).swapped_at
    assert found is not None
    return float(found.timestamp())


@contextlib.contextmanager
def _shown_after_an_error() -> Iterator[None]:
    """Keep what is printed, such as the logs of the workers, from the output, unless an error is raised."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            yield
        except BaseException:
            sys.stderr.write(printed.getvalue())
            raise


def say(text: str, target: str, is_met: bool) -> None:
    print(f"  {text} (target: {target}; {'met' if is_met else 'MISSED'})", flush=True)
