import signal

import pytest

from massmigration.backends.handler import get_backend
from massmigration.models import ShardRecord
from massmigration.paging import sharding
from massmigration.worker import perform
from testsupport import oracle
from testsupport.worker_processes import Fleet, wait_until

pytestmark = pytest.mark.slow

KEY = "testapp:0002_by_object"
ROWS = 160
SMALL = 10
PAUSE = 0.01


@pytest.fixture
def fleet(server_alias, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    oracle.make_items(server_alias, ROWS)
    with Fleet(server_alias, LEASE=2, IDLE_LIMIT=1, BATCH_SIZE=5, MAX_BATCH_SIZE=5, SHARDS=2) as fleet:
        yield fleet


@pytest.fixture
def messages(fleet):
    """The jobs of a small shard and of a large one."""
    perform(fleet.launch(KEY))
    sent = [payload for payload, _ in get_backend().sent]
    get_backend().clear()
    small, large = shards_of(fleet).order_by("index")
    bound = [oracle.rows(fleet.db_alias)[SMALL - 1]]
    shards_of(fleet).filter(pk=small.pk).update(upper=bound)
    shards_of(fleet).filter(pk=large.pk).update(lower=bound)
    return sent


def shards_of(fleet):
    return ShardRecord.objects.using(fleet.db_alias)


def start_owner(fleet, message):
    """Start a worker at the large shard, and wait for its first batch."""
    owner = fleet.start(message, pause=PAUSE)
    wait_until(shards_of(fleet).filter(processed__gt=0).exists)
    return owner


def assert_exactly_once(fleet):
    fleet.wait_until_applied()
    assert oracle.counts(fleet.db_alias) == [1]
    assert oracle.calls(fleet.db_alias) == oracle.rows(fleet.db_alias)
    assert oracle.tally(fleet.db_alias) == (ROWS, 0, 0)
    ranges = sorted((lower or [0], upper) for lower, upper in shards_of(fleet).values_list("lower", "upper"))
    assert [lower for lower, _ in ranges[1:]] == [upper for _, upper in ranges[:-1]]


def test_workers_share_what_is_left(fleet, messages):
    small, large = messages
    start_owner(fleet, large)
    fleet.start(small, pause=PAUSE)

    assert_exactly_once(fleet)
    by_worker = {}
    for worker, processed in shards_of(fleet).values_list("worker", "processed"):
        by_worker[worker] = by_worker.get(worker, 0) + processed
    assert len(by_worker) == 2
    assert min(by_worker.values()) >= ROWS / 4


@pytest.mark.parametrize("place", ["shard split", "part taken"])
def test_a_thief_that_is_killed_loses_and_repeats_nothing(fleet, messages, place):
    small, large = messages
    owner = start_owner(fleet, large)
    thief = fleet.start(small, die_at=place)
    assert thief.wait() == -signal.SIGKILL
    assert shards_of(fleet).count() == (2 if place == "shard split" else 3)
    owner.hurry()

    assert_exactly_once(fleet)


def test_a_thief_that_freezes_blocks_nobody_and_commits_nothing_when_it_wakes(fleet, messages):
    small, large = messages
    owner = start_owner(fleet, large)
    thief = fleet.start(small, freeze_at="shard split")
    wait_until(thief.is_frozen)
    owner.hurry()

    assert_exactly_once(fleet)
    thief.thaw()
    wait_until(lambda: thief.has_logged("idle"))
    assert thief.stop() == 0
    assert_exactly_once(fleet)


@pytest.mark.parametrize("place", ["batch committed", "checkpoint not committed"])
def test_an_owner_that_freezes_commits_nothing_of_what_was_taken(fleet, messages, place):
    small, large = messages
    owner = fleet.start(large, freeze_at=place)
    wait_until(owner.is_frozen)
    fleet.start(small)

    assert_exactly_once(fleet)
    owner.thaw()
    wait_until(lambda: owner.has_logged("idle"))
    assert owner.stop() == 0
    assert_exactly_once(fleet)


def test_an_owner_that_is_killed_leaves_its_half_to_others(fleet, messages):
    small, large = messages
    owner = start_owner(fleet, large)
    thief = fleet.start(small, pause=PAUSE)
    wait_until(lambda: shards_of(fleet).count() > 2)
    owner.kill()
    thief.hurry()

    assert_exactly_once(fleet)
