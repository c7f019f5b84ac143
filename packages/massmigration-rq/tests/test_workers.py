import os
import signal
import time

import pytest
from rq import worker

from testsupport import oracle
from testsupport.fleet import SLOW
from testsupport.rq_fleet import KEY, PAUSE, forking, launch, queue_of, simple, spawning
from testsupport.worker_processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 50_000
INSIDE = 5
LARGE = 2_000
"""So many rows make a batch when it does not pause any more."""


def assert_exactly_once(db_alias):
    assert oracle.counts(db_alias) == [1]
    assert oracle.tally(db_alias) == (ROWS, 0, 0)


def in_the_middle(fleet, rng):
    """Freeze a worker that owns a shard at a random time, and return it."""
    worker = rng.choice(wait_until(fleet.owners, timeout=SLOW))
    time.sleep(rng.uniform(0, 0.3))
    assert fleet.status() == "running"
    worker.freeze()
    return worker


def kill(fleet, rng):
    fleet.kill_one(rng, within=0.3)


def kill_and_replace(fleet, rng):
    kill(fleet, rng)
    fleet.begin(pause=PAUSE)


def kill_horse(fleet, rng):
    """End the process that a worker has forked for its job; the worker lives."""
    worker = in_the_middle(fleet, rng)
    fleet.kills_inside += worker.has_uncommitted_work()
    worker.kill_children()
    os.kill(worker.pid, signal.SIGCONT)
    worker.frozen = []


def kill_rider(fleet, rng):
    """Kill a worker, but not the process that it has forked for its job, which continues."""
    worker = in_the_middle(fleet, rng)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    for horse in worker.frozen[1:]:
        os.kill(horse, signal.SIGCONT)


@pytest.mark.parametrize(
    ("workers", "until_inside", "then"),
    [
        pytest.param(forking, kill_horse, kill_rider, id="forking"),
        pytest.param(simple, kill_and_replace, kill, id="simple"),
    ],
)
def test_kills_lose_and_repeat_nothing(
    server_alias, redis_url, queue, workers, until_inside, then, rng, record_property
):
    # Batches stay small: what is left must take longer than the leases of the killed, or nobody would run recovery.
    with workers(server_alias, redis_url) as fleet:
        fleet.start(4, pause=PAUSE)
        launch(fleet, ROWS)
        while fleet.kills_inside < INSIDE:
            until_inside(fleet, rng)
        then(fleet, rng)
        asked = rng.choice(wait_until(fleet.owners, timeout=SLOW))
        asked.terminate()
        asked.wait()
        kill(fleet, rng)
        fleet.hurry()
        seconds = fleet.wait_until_applied()

    print(f"{fleet.kills_inside} kills inside a transaction; applied {seconds:.1f} s after the last.")  # noqa: T201
    record_property("kills inside a transaction", fleet.kills_inside)
    assert asked.wait() == 0
    assert_exactly_once(server_alias)


@pytest.mark.parametrize(
    "workers",
    [
        forking,
        simple,
        pytest.param(
            spawning,
            marks=pytest.mark.skipif(not hasattr(worker, "SpawnWorker"), reason="This version of RQ spawns no jobs."),
        ),
    ],
)
def test_a_worker_that_is_asked_to_stop_ends_its_job_after_the_batch(server_alias, redis_url, queue, workers):
    queue = queue_of(queue.connection)
    with workers(server_alias, redis_url, SHARDS=1, JOB_DURATION=600, MAX_SET_SIZE=LARGE) as fleet:
        (worker,) = fleet.start(pause=PAUSE)
        launch(fleet, ROWS)
        wait_until(fleet.done, timeout=SLOW)
        worker.terminate()
        exit_code = worker.wait()
        done, left = fleet.done(), [job.description for job in queue.jobs]
        fleet.hurry()
        fleet.start()
        fleet.wait_until_applied()

    assert exit_code == 0
    assert done < ROWS
    assert f"massmigration {KEY}, shard 0 of stage 0" in left
    assert_exactly_once(server_alias)
