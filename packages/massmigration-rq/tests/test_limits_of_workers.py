import pytest

from massmigration import api
from testsupport import limits, oracle
from testsupport.rq_fleet import forking, simple

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.mark.parametrize("workers", [pytest.param(forking, id="forking"), pytest.param(simple, id="simple")])
def test_a_limit_holds_with_workers_that_are_killed_and_jobs_that_are_sent_twice(
    server_alias, redis_url, queue, workers, rng
):
    with workers(server_alias, redis_url) as fleet:
        oracle.make_items(server_alias, limits.ROWS)
        fleet.start(4)
        api.launch(limits.KEY, server_alias)

        def kill():
            fleet.kill_one(rng)
            fleet.begin()

        limits.disturb(rng, done=fleet.done, kill=kill, send=lambda: api.send(limits.KEY, server_alias))
        fleet.wait_until_applied(timeout=limits.PATIENCE)

    limits.assert_kept(server_alias)
