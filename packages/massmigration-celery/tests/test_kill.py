import time

import pytest

from massmigration import api
from testsupport import oracle
from testsupport.celery_fleet import KEY, PAUSE, ROWS, fleet_of
from testsupport.worker_processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SLOWLY = 10 * PAUSE
SHORT = {"BATCH_DURATION": 0.3, "MAX_SET_SIZE": 2_000}
"""Batches are small while they pause, and grow when they do not pause any more."""


def assert_exactly_once(db_alias):
    assert oracle.counts(db_alias) == [1]
    assert oracle.tally(db_alias) == (ROWS, 0, 0)
    assert oracle.verbs(db_alias) == ["launch", "plan", "applied"]


def test_two_killed_and_one_stopped_lose_and_repeat_nothing(server_alias, broker, rng, record_property):
    url, pool, result_backend = broker
    with fleet_of(server_alias, url, pool, result_backend=result_backend, **SHORT) as fleet:
        fleet.start(4, pause=SLOWLY)
        api.launch(KEY, server_alias)
        fleet.kill_one(rng)
        fleet.kill_one(rng, is_inside=True)
        stopped = rng.choice(wait_until(fleet.owners))
        time.sleep(rng.uniform(0, 0.5))
        stopped.terminate()
        assert stopped.wait() == 0
        fleet.hurry()

        seconds = fleet.wait_until_applied()

        record_property("kills inside a transaction", fleet.kills_inside)
        print(f"{fleet.kills_inside} of 2 kills fell into a transaction; applied {seconds:.1f} s after the last.")  # noqa: T201
    assert_exactly_once(server_alias)
