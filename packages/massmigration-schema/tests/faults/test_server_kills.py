"""A server that is killed in the middle of a change. After its restart, the next worker makes it good."""

import contextlib

import pytest
from django.db import OperationalError, connections

from massmigration_schema.definition import differences
from testsupport.shop import Shop
from testsupport.shop_kills import kinds, trials
from testsupport.threads import PATIENCE, in_thread
from testsupport.worker_processes import wait_until

SWAPS = r"^(RENAME TABLE|ALTER TABLE .* SET SCHEMA)"


@pytest.fixture
def shop(own_server):
    return Shop(own_server[0])


@pytest.fixture
def die(own_server):
    """A function that kills the server, and starts it again."""
    db_alias, server = own_server

    def kill():
        server.kill()
        server.start_again()
        connections[db_alias].close()
        # In a thread, which has a connection of its own: this one may be in a transaction.
        in_thread(wait_until, is_ready, timeout=PATIENCE).result(PATIENCE)

    def is_ready():
        """Return whether the server has recovered."""
        with contextlib.suppress(OperationalError):
            connections[db_alias].ensure_connection()
            connections[db_alias].close()
            return True

    return kill


def swapped(making):
    """Return what is wrong after the swap."""
    shop = making.shop
    listed = sorted(shop.execute("SELECT name, about FROM campaign"))
    notes = sorted(shop.execute("SELECT text FROM shop_note"))
    wrong = [] if listed == [("name 0", "d"), ("name 1", "written"), ("name 2", "d")] else [f"rows: {listed}"]
    wrong += [] if notes == [("n",), ("n",), ("n",), ("w",)] else [f"notes: {notes}"]
    making.clean_up()
    return wrong + [str(orphan) for orphan in shop.catalog.orphans()]


def reverted(making):
    """Return what is wrong after the revert and the cleanup."""
    shop = making.shop
    listed = kinds(differences(shop.definition(), making.before[0]))
    return listed + [str(orphan) for orphan in shop.catalog.orphans()]


STEPS = {
    "copy": {"before": ["prepare"], "after": ["copy", "make_ready", "cut_over"], "check": swapped},
    "cut_over": {"before": ["prepare", "copy", "make_ready"], "after": ["cut_over"], "check": swapped},
    "revert": {
        "before": ["prepare", "copy", "make_ready", "cut_over"],
        "after": ["revert", "clean_up"],
        "check": reverted,
        "reverse_sync": True,
    },
}


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_copy_and_at_the_swap(shop, die):
    answers = [
        trials(shop, step, die=die, pattern=pattern, at_most=1, **STEPS[step])
        for step, pattern in (("copy", ""), ("cut_over", SWAPS))
    ]

    assert answers == [(1, {}), (1, {})]


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("step", STEPS)
def test_a_server_that_is_killed_at_every_statement(shop, die, step):
    count, found = trials(shop, step, die=die, **STEPS[step])

    assert found == {}
    assert count >= 1
