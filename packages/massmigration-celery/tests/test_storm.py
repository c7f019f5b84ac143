"""Kills and freezes of Celery workers, and a kill of the database server, in one run."""

import contextlib
import time

import pytest
from django.db import DatabaseError, InterfaceError, connections

from massmigration import api
from testsupport import oracle
from testsupport.celery_fleet import fleet_of
from testsupport.fleet import SLOW
from testsupport.testapp.models import Item
from testsupport.worker_processes import wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

ROWS = 20_000
WORKERS = 3
PAUSE = 0.01
FAULTS = ["kill"] * 10 + ["freeze"] * 5 + ["server"]
LEASE, IDLE_LIMIT = 4, 5


class Storm:
    """A series of faults, one after the other, that a running migration meets."""

    def __init__(self, fleet, server, rng):
        self.fleet, self.server, self.rng = fleet, server, rng
        self.thaws = {}
        self.inside = 0

    def kill(self):
        self.owner().kill()

    def freeze(self):
        """Freeze a worker for longer than its lease and the idle limit."""
        self.thaws[self.owner()] = time.monotonic() + self.rng.uniform(IDLE_LIMIT + 1, IDLE_LIMIT + 4)

    def owner(self):
        """Freeze a worker that holds a shard, and return it."""
        found = self.rng.choice(wait_until(self.owners, timeout=SLOW))
        assert self.fleet.status() == "running"
        found.freeze()
        self.inside += found.has_uncommitted_work()
        return found

    def owners(self):
        with contextlib.suppress(DatabaseError, InterfaceError):
            return self.fleet.owners()

    def kill_server(self):
        self.server.kill()
        self.server.start_again()
        connections[self.fleet.db_alias].close()

    def thaw(self, *, all_of_them=False):
        for worker, at in list(self.thaws.items()):
            if all_of_them:
                time.sleep(max(0, at - time.monotonic()))
            if time.monotonic() >= at:
                worker.thaw()
                del self.thaws[worker]

    def rage(self):
        faults = {"kill": self.kill, "freeze": self.freeze, "server": self.kill_server}
        for name in self.rng.sample(FAULTS, len(FAULTS)):
            time.sleep(self.rng.uniform(0.3, 1.5))
            self.thaw()
            while len([worker for worker in self.fleet.alive() if not worker.frozen]) < WORKERS:
                self.fleet.begin(pause=PAUSE)
            faults[name]()
        self.thaw(all_of_them=True)


@pytest.mark.parametrize("name", ["0002_by_object", "0003_by_fields", "0004_by_batch"])
def test_a_storm_loses_and_repeats_nothing(own_server, redis_url, name, rng, record_property):
    db_alias, server = own_server
    with fleet_of(db_alias, redis_url, rows=ROWS, LEASE=LEASE, IDLE_LIMIT=IDLE_LIMIT) as fleet:
        fleet.start(WORKERS, pause=PAUSE)
        api.launch(f"testapp:{name}", db_alias)
        storm = Storm(fleet, server, rng)
        storm.rage()
        assert fleet.status() == "running"
        fleet.begin()
        fleet.hurry()
        fleet.wait_until_applied(timeout=300)

    record_property("faults inside a transaction", storm.inside)
    print(f"{storm.inside} of 15 faults of workers inside a transaction.")  # noqa: T201
    rows = oracle.rows(db_alias)
    assert oracle.tally(db_alias) == (ROWS, 0, 0)
    assert oracle.counts(db_alias) == ([0] if name == "0003_by_fields" else [1])
    assert oracle.calls(db_alias) == ([] if name == "0004_by_batch" else rows)
    if name == "0003_by_fields":
        assert Item.objects.using(db_alias).exclude(slug=None).count() == ROWS
