import pytest

from testsupport import limits, oracle
from testsupport.worker_processes import Fleet, wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_a_limit_holds_with_processes_that_are_killed_and_jobs_that_are_sent_twice(server_alias, rng):
    oracle.make_items(server_alias, limits.ROWS)
    with Fleet(server_alias, threads=2, LEASE=2, JOB_DURATION=1, SHARDS=8) as fleet:
        plan = fleet.launch(limits.KEY)
        fleet.start(plan)
        fleet.start(plan, plan)
        copies = []

        def kill():
            rng.choice(wait_until(fleet.owners)).kill()
            fleet.start(*copies)
            copies.clear()

        limits.disturb(
            rng, done=lambda: oracle.tally(server_alias)[0] or 0, kill=kill, send=lambda: copies.append(plan)
        )
        fleet.wait_until_applied(timeout=limits.PATIENCE)

    limits.assert_kept(server_alias)
