import pytest

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.models import Event, ShardRecord
from massmigration.paging import sharding
from massmigration.worker import perform
from testsupport import oracle
from testsupport.worker_processes import Fleet, wait_until

pytestmark = pytest.mark.slow

KEY = "testapp:0002_by_object"
ROWS = 240
WORKERS = 4
BATCH = 5


@pytest.fixture
def fleet(server_alias, monkeypatch):
    """Four workers, each in the middle of a shard."""
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    oracle.make_items(server_alias, ROWS)
    with Fleet(server_alias, LEASE=4, BATCH_SIZE=BATCH, MAX_BATCH_SIZE=BATCH, SHARDS=WORKERS) as fleet:
        perform(fleet.launch(KEY))
        for payload, _ in get_backend().sent:
            fleet.start(payload, pause=0.05)
        get_backend().clear()
        wait_until(lambda: len(fleet.owners()) == WORKERS and all(shard.processed for shard in shards_of(fleet)))
        yield fleet


def shards_of(fleet):
    return list(ShardRecord.objects.using(fleet.db_alias).order_by("index"))


def assert_exactly_once(fleet):
    for worker in fleet.alive():
        worker.hurry()
    fleet.wait_until_applied()
    assert oracle.counts(fleet.db_alias) == [1]
    assert oracle.calls(fleet.db_alias) == oracle.rows(fleet.db_alias)


def test_a_change_of_the_pace_reaches_four_workers_within_one_batch(fleet):
    api.set_pace(KEY, fleet.db_alias, max_batch_size=1, actor="ann")
    before = shards_of(fleet)

    wait_until(lambda: all(now.fence - then.fence >= BATCH for then, now in zip(before, shards_of(fleet), strict=True)))
    after = shards_of(fleet)

    # One batch of each worker had begun before the change. Each later one has one row.
    batches = [now.fence - then.fence for then, now in zip(before, after, strict=True)]
    rows = [now.processed - then.processed for then, now in zip(before, after, strict=True)]
    assert len(rows) == WORKERS
    assert all(count <= BATCH + number - 1 for count, number in zip(rows, batches, strict=True))
    event = Event.objects.using(fleet.db_alias).get(verb="pace")
    assert (event.actor, event.detail) == ("ann", "max_batch_size: default -> 1")
    api.set_pace(KEY, fleet.db_alias, max_batch_size=None)
    assert_exactly_once(fleet)


def test_fewer_workers_and_a_pause_of_everything_reach_four_workers(fleet):
    api.set_pace(KEY, fleet.db_alias, max_workers=1)
    wait_until(lambda: len(fleet.owners()) == 1)

    api.pause_all(fleet.db_alias)
    wait_until(lambda: not fleet.owners())
    api.resume_all(fleet.db_alias)
    wait_until(lambda: len(fleet.owners()) == 1)
    api.set_pace(KEY, fleet.db_alias, max_workers=None)

    assert_exactly_once(fleet)
