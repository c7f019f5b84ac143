import time

import pytest

from testsupport import oracle
from testsupport.testapp.models import Call, Item
from testsupport.worker_processes import Fleet, wait_until

pytestmark = pytest.mark.slow

ROWS = 1500
PAUSE = 0.05
KILLS = 10
WAYS = ["0001_once", "0002_by_object", "0003_by_fields", "0004_by_batch"]

# What a way writes, once a row: calls logged, increments, slugs.
LOGGED = {"0002_by_object", "0003_by_fields"}
COUNTED = {"0001_once", "0002_by_object", "0004_by_batch"}


def kill_at_random(fleet, kills, rng):
    """Kill and replace workers at random times, half of them with uncommitted work; return how many had some."""
    inside = 0
    for number in range(kills):
        victim = freeze_owner(fleet, rng, is_inside=number % 2 == 0)
        inside += victim.has_uncommitted_work()
        victim.kill()
        fleet.start(pause=PAUSE)
    print(f"{inside} of {kills} kills fell into a transaction with uncommitted work.")  # noqa: T201
    return inside


def freeze_owner(fleet, rng, *, is_inside):
    """Freeze a worker that holds a shard, at a random time; if `is_inside`, one that has uncommitted work."""
    while True:
        victim = rng.choice(wait_until(fleet.owners))
        time.sleep(rng.uniform(0, 0.5))
        assert fleet.status() == "running"
        victim.freeze()
        if not is_inside or victim.has_uncommitted_work():
            return victim
        victim.thaw()


def run_and_kill(name, db_alias, *, kills, rows, rng):
    oracle.make_items(db_alias, rows)
    threads, workers = (1, 1) if db_alias == "default" else (2, 2)
    fleet = Fleet(db_alias, threads=threads, LEASE=0.5, BATCH_DURATION=0.3, BATCH_SIZE=10, JOB_DURATION=1, SHARDS=4)
    with fleet:
        plan = fleet.launch(f"testapp:{name}")
        for payload in [plan, *[None] * (workers - 1)]:
            fleet.start(*filter(None, [payload]), pause=PAUSE)
        inside = kill_at_random(fleet, kills, rng)
        for worker in fleet.alive():
            worker.hurry()
        fleet.wait_until_applied(timeout=30 * kills)
    return inside


def assert_exactly_once(name, db_alias):
    rows = oracle.rows(db_alias)
    assert oracle.counts(db_alias) == ([1] if name in COUNTED else [0])
    assert oracle.calls(db_alias) == (rows if name in LOGGED else [])
    assert Call.objects.using(db_alias).filter(item=None).count() == (name == "0001_once")
    assert Item.objects.using(db_alias).exclude(slug=None).count() == (len(rows) if name == "0003_by_fields" else 0)
    assert oracle.tally(db_alias) == (1 if name == "0001_once" else len(rows), 0, 0)
    assert oracle.verbs(db_alias) == ["launch", "plan", "applied"]


@pytest.mark.parametrize("name", WAYS)
def test_ten_kills_lose_and_repeat_nothing(server_alias, name, rng, record_property):
    inside = run_and_kill(name, server_alias, kills=KILLS, rows=ROWS, rng=rng)

    record_property("kills inside a transaction", inside)
    assert inside >= KILLS / 2
    assert_exactly_once(name, server_alias)


@pytest.mark.parametrize("db_alias", ["default"], ids=["sqlite"], indirect=True)
def test_ten_kills_lose_and_repeat_nothing_on_sqlite(db_alias, rng, record_property):
    inside = run_and_kill("0002_by_object", db_alias, kills=KILLS, rows=ROWS // 2, rng=rng)

    record_property("kills inside a transaction", inside)
    assert inside >= KILLS / 2
    assert_exactly_once("0002_by_object", db_alias)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WAYS)
def test_a_hundred_kills_lose_and_repeat_nothing(db_alias, name, rng, record_property):
    inside = run_and_kill(name, db_alias, kills=100, rows=20 * ROWS, rng=rng)

    record_property("kills inside a transaction", inside)
    assert inside >= 50
    assert_exactly_once(name, db_alias)
