import pytest

from massmigration import api
from massmigration.models import ShardRecord
from testsupport import oracle
from testsupport.worker_processes import Fleet, wait_until

pytestmark = pytest.mark.slow

KEY = "testapp:0002_by_object"
ROWS = 400
PAUSE = 0.02


@pytest.fixture
def fleet(db_alias):
    oracle.make_items(db_alias, ROWS)
    # A worker that waited for another's lease to expire would wait longer than the test.
    with Fleet(db_alias, threads=2, LEASE=600, BATCH_DURATION=0.1, BATCH_SIZE=20, SHARDS=2) as fleet:
        yield fleet


def stop_in_the_middle(fleet):
    """Return a worker's exit code and log after a SIGTERM between its first rows and its last."""
    worker = fleet.start(fleet.launch(KEY), pause=PAUSE)
    wait_until(lambda: oracle.rows_counted(fleet.db_alias))
    return worker.stop()


def test_a_worker_that_is_stopped_ends_its_batch_and_gives_its_leases_back(fleet):
    exit_code = stop_in_the_middle(fleet)

    done = oracle.rows_counted(fleet.db_alias)
    assert exit_code == 0
    assert 0 < done < ROWS
    assert oracle.tally(fleet.db_alias) == (done, 0, 0)
    assert not ShardRecord.objects.using(fleet.db_alias).exclude(lease_token=None, lease_until=None).exists()


def test_a_stopped_run_is_gone_on_with_at_once_when_its_job_is_delivered_again(fleet):
    stop_in_the_middle(fleet)
    api.pause(KEY, fleet.db_alias)
    api.resume(KEY, fleet.db_alias)

    fleet.start(fleet.take_sent())

    fleet.wait_until_applied()
    assert oracle.counts(fleet.db_alias) == [1]
    assert oracle.calls(fleet.db_alias) == oracle.rows(fleet.db_alias)
    assert oracle.tally(fleet.db_alias) == (ROWS, 0, 0)


def test_a_pause_holds_from_the_next_batch_on_and_gives_the_leases_back(fleet):
    fleet.start(fleet.launch(KEY), pause=PAUSE)
    wait_until(lambda: oracle.rows_counted(fleet.db_alias))

    api.pause(KEY, fleet.db_alias)
    wait_until(lambda: not ShardRecord.objects.using(fleet.db_alias).exclude(lease_token=None).exists())

    done = oracle.rows_counted(fleet.db_alias)
    assert 0 < done < ROWS
    assert oracle.tally(fleet.db_alias) == (done, 0, 0)
    assert fleet.status() == "paused"


def test_a_paused_run_is_resumed_by_another_worker_at_once(fleet):
    first = fleet.start(fleet.launch(KEY), pause=PAUSE)
    wait_until(lambda: oracle.rows_counted(fleet.db_alias))
    api.pause(KEY, fleet.db_alias)
    wait_until(lambda: first.has_logged("idle"))
    api.resume(KEY, fleet.db_alias)

    fleet.start(fleet.take_sent())

    fleet.wait_until_applied()
    assert first.is_alive()
    assert oracle.counts(fleet.db_alias) == [1]
    assert oracle.calls(fleet.db_alias) == oracle.rows(fleet.db_alias)
