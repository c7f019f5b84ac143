import time

import pytest

from massmigration.models import MigrationRecord
from testsupport import oracle
from testsupport.testapp.models import Call
from testsupport.worker_processes import Fleet, wait_until

pytestmark = pytest.mark.slow

ROWS = 200
LEASE = 0.5
KEPT = 1.5
"""A lease that is renewed in time on a machine that stands still for a second, too."""
LONG = 3 * KEPT


def freeze_inside(worker):
    """Freeze a worker in the middle of a batch."""
    for _ in range(100):
        worker.freeze()
        if worker.has_uncommitted_work():
            return
        worker.thaw()
        time.sleep(0.05)
    pytest.fail("The worker was never seen in a batch.")


def snapshot(db_alias):
    return oracle.everything(db_alias), MigrationRecord.objects.using(db_alias).values().get()


@pytest.mark.parametrize("name", ["0001_once", "0002_by_object", "0003_by_fields", "0004_by_batch"])
def test_a_frozen_worker_blocks_nobody_and_commits_nothing_when_it_wakes(server_alias, name):
    oracle.make_items(server_alias, ROWS)
    with Fleet(server_alias, LEASE=LEASE, IDLE_LIMIT=1, BATCH_DURATION=0.3, BATCH_SIZE=20, SHARDS=2) as fleet:
        first = fleet.start(fleet.launch(f"testapp:{name}"), pause=0.01)
        freeze_inside(first)

        fleet.start()
        fleet.wait_until_applied()
        assert first.is_frozen()
        finished = snapshot(server_alias)
        first.thaw()
        wait_until(lambda: first.has_logged("was refused"))
        wait_until(lambda: first.has_logged("idle"))

        assert first.stop() == 0
        assert snapshot(server_alias) == finished
    assert oracle.counts(server_alias) == ([0] if name == "0003_by_fields" else [1])
    assert oracle.calls(server_alias) == ([] if name in ("0001_once", "0004_by_batch") else oracle.rows(server_alias))
    assert Call.objects.using(server_alias).filter(item=None).count() == (name == "0001_once")
    assert oracle.tally(server_alias) == (1 if name == "0001_once" else ROWS, 0, 0)


@pytest.mark.parametrize(
    ("place", "complaint"),
    [("planning", "was refused"), ("looking", "was refused"), ("taking", "Recovery on database")],
    ids=["plan", "look", "recover"],
)
def test_a_worker_frozen_in_another_transaction_of_the_engine_blocks_nobody(server_alias, place, complaint):
    oracle.make_items(server_alias, ROWS)
    with Fleet(server_alias, LEASE=LEASE, IDLE_LIMIT=1, SHARDS=2) as fleet:
        plan = fleet.launch("testapp:0002_by_object")
        first = fleet.start(*([] if place == "taking" else [plan]), freeze_at=place)
        wait_until(first.is_frozen)

        fleet.start()
        fleet.wait_until_applied()
        assert first.is_frozen()
        finished = snapshot(server_alias)
        first.thaw()
        wait_until(lambda: first.has_logged(complaint))

        assert first.stop() == 0
        assert snapshot(server_alias) == finished
    assert oracle.counts(server_alias) == [1]
    assert oracle.verbs(server_alias) == ["launch", "plan", "applied"]


def run_with_two_workers(db_alias, name, *, pause, tmp_path):
    """Deliver the run's job to both. Return the calls of the operation, committed or not."""
    runs = tmp_path / "runs"
    with Fleet(db_alias, LEASE=KEPT, BATCH_SIZE=ROWS, SHARDS=1) as fleet:
        plan = fleet.launch(f"testapp:{name}")
        fleet.start(plan, pause=pause, runs=str(runs))
        fleet.start(plan, pause=pause, runs=str(runs))
        fleet.wait_until_applied()
        assert len(fleet.alive()) == 2
    return runs.read_text().split()


@pytest.mark.parametrize("name", ["0011_long_once", "0013_long_once_not_atomic"], ids=["atomic", "stepwise"])
def test_a_call_longer_than_its_lease_is_made_once(db_alias, name, tmp_path):
    oracle.make_items(db_alias, 5)

    calls = run_with_two_workers(db_alias, name, pause=LONG / 10, tmp_path=tmp_path)

    assert calls == ["once"]
    assert oracle.counts(db_alias) == [1]


@pytest.mark.parametrize("name", ["0012_long_batch", "0014_long_batch_not_atomic"], ids=["atomic", "stepwise"])
def test_a_batch_longer_than_its_lease_is_run_once(db_alias, name, tmp_path):
    oracle.make_items(db_alias, 15)

    calls = run_with_two_workers(db_alias, name, pause=LONG / 15, tmp_path=tmp_path)

    assert sorted(map(int, calls)) == oracle.rows(db_alias)
    assert oracle.counts(db_alias) == [1]
