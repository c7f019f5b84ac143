"""A whole online change beside writers, with kills, pauses and doubled jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Sequence

from django.db import Error, connections, transaction

from massmigration import api
from massmigration.exceptions import InvalidTransition
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.concurrent_writers import elsewhere
from testsupport.database_servers import DatabaseServer
from testsupport.fleet import ProcessFleet
from testsupport.online.fleets import DOUBLED_EVERY
from testsupport.online.scene import KEY, LoadedShop
from testsupport.online.writers import Report
from testsupport.worker_processes import wait_until

COPY, SETTLE, VERIFY, REPAIR = 1, 2, 3, 4
"""The stages of a change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """What happens to the workers and to the server while rows are copied."""

    kills: int = 0
    pauses: int = 0
    server_kills: int = 0

    def in_order(self, rng: random.Random) -> list[str]:
        found = ["kill"] * self.kills + ["pause"] * self.pauses + ["server"] * self.server_kills
        rng.shuffle(found)
        return found


class OnlineRun:
    """The change of the shop by a fleet of workers."""

    def __init__(self, fleet: ProcessFleet, shop: LoadedShop, *, workers: int, patience: float, seed: int = 1) -> None:
        self.fleet, self.shop, self.workers = fleet, shop, workers
        self.rng = random.Random(seed)
        self.told: list[str] = []
        self.is_too_late = False
        """Whether the copy ended before all faults had happened."""
        self.times: dict[str, float] = {}
        self._patience = patience
        self._doubled_at = 0.0

    def reach(self, stage: int) -> None:
        """Launch the change if it is not, and wait until it has reached a stage or waits."""
        if api.status(KEY, self.shop.db_alias) is None:
            api.launch(KEY, self.shop.db_alias)
            self.times["launched"] = time.time()
        self._wait(lambda record: record.stage >= stage or record.status == Status.WAITING)

    def copy(self, faults: Faults, server: DatabaseServer | None = None) -> None:
        """Copy all rows, with all faults, each of which comes after some more rows."""
        self.reach(COPY)
        self._wait(lambda record: bool(self.copied()))
        self.times["copy began"] = time.time()
        left = faults.in_order(self.rng)
        while left:
            before = self.copied()
            self._wait(lambda record, before=before: self.copied() > before or record.stage > COPY)
            if self._record().stage > COPY:
                break
            getattr(self, f"_{left.pop()}")(server)
        self.is_too_late = bool(left)
        self.reach(SETTLE)
        self.times["copy ended"] = time.time()

    def compare(self) -> None:
        """Settle, verify and repair, until the change waits for the cutover."""
        self.reach(VERIFY)
        self.times["verification began"] = time.time()
        self.reach(REPAIR)
        self.times["verification ended"] = time.time()
        self._wait(lambda record: record.status == Status.WAITING)
        self.times["ready"] = time.time()

    def cut_over(self, *, reader_seconds: float = 0) -> None:
        """Swap the tables. `reader_seconds`: how long another transaction has the table, from a second before on."""
        alias = self.shop.db_alias
        with contextlib.ExitStack() as stack:
            if reader_seconds:
                thread = elsewhere(lambda: _read_for(alias, reader_seconds + 1))
                stack.callback(thread.join)
                time.sleep(1)
            self.times["cutover began"] = time.time()
            api.proceed(KEY, alias)
            self._wait(lambda record: record.status == Status.APPLIED)
            self.times["cutover ended"] = time.time()

    def copied(self) -> int:
        found = ShardRecord.objects.using(self.shop.db_alias).filter(record_id=KEY, stage=COPY)
        return sum(found.values_list("processed", flat=True))

    def seconds(self, first: str, last: str) -> float:
        return self.times[last] - self.times[first]

    def _record(self) -> MigrationRecord:
        return MigrationRecord.objects.using(self.shop.db_alias).get(key=KEY)

    def _wait(self, is_so: Callable[[MigrationRecord], bool]) -> None:
        """Wait, and meanwhile replace workers that have ended, and send jobs twice."""

        def look() -> bool:
            self._replace_workers()
            if time.monotonic() - self._doubled_at > DOUBLED_EVERY:
                self._doubled_at = time.monotonic()
                api.send(KEY, self.shop.db_alias)
            record = self._record()
            assert record.status not in (Status.FAILED, Status.CANCELLED), record.last_error
            return is_so(record)

        wait_until(look, timeout=self._patience)

    def _replace_workers(self) -> None:
        for _ in range(self.workers - len(self.fleet.alive())):
            self.fleet.begin()

    def _kill(self, server: DatabaseServer | None) -> None:
        """Kill a worker with its processes, or only those that run its jobs."""
        victim = self.rng.choice(self.fleet.owners() or self.fleet.alive())
        is_part = self.rng.random() < 0.5 and victim.kill_children() > 0
        if not is_part:
            victim.kill()
        self.told.append(f"{'children' if is_part else 'worker'} killed at {self.copied()}")

    def _pause(self, server: DatabaseServer | None) -> None:
        alias = self.shop.db_alias
        api.pause(KEY, alias)
        held = ShardRecord.objects.using(alias).filter(record_id=KEY, is_done=False, lease_token__isnull=False)
        # A killed worker holds its shard until the end of its lease, so nobody waits for that.
        until = time.monotonic() + 2
        while held.exists() and time.monotonic() < until:
            time.sleep(0.05)
        before = self.copied()
        time.sleep(0.5)
        after = self.copied()
        self.told.append(f"paused at {before}, {after - before} rows more")
        # A worker of `local` that starts meanwhile resumes the change: this is what its command does.
        with contextlib.suppress(InvalidTransition):
            api.resume(KEY, alias)

    def _server(self, server: DatabaseServer | None) -> None:
        assert server is not None
        self.told.append(f"server killed at {self.copied()}")
        connections.close_all()
        server.kill()
        server.start_again()
        wait_until(self._answers, timeout=self._patience)

    def _answers(self) -> bool:
        try:
            self.copied()
        except Error:
            connections[self.shop.db_alias].close()
            return False
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waits:
    """How long transactions of the writers took that were under way in some time."""

    count: int
    median: float
    worst: float

    def __str__(self) -> str:
        return f"{self.count} transactions, median {self.median * 1000:.1f} ms, worst {self.worst * 1000:.0f} ms"


def waits(reports: Sequence[Report], began: float, ended: float) -> Waits:
    """Return the latencies of the transactions that were under way between two times."""
    found = [took for report in reports for at, took in report.latencies if at + took >= began and at <= ended]
    return Waits(count=len(found), median=statistics.median(found or [0]), worst=max(found, default=0))


def _read_for(db_alias: str, seconds: float) -> None:
    with transaction.atomic(db_alias), connections[db_alias].cursor() as cursor:
        cursor.execute("SELECT 1 FROM campaign LIMIT 1")
        cursor.fetchall()
        time.sleep(seconds)
