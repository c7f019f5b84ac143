"""Ready-made operations, with workers killed in the middle of a batch and right after one."""

import random

import pytest
from django.db import connections

from massmigration.models import ShardRecord
from testsupport import databases, oracle
from testsupport.operations_app.models import Archived, Person
from testsupport.worker_processes import Fleet, wait_until

pytestmark = pytest.mark.slow

ROWS = 1000
NAMES = [
    "0001_add",
    "0002_copy_field",
    "0003_remove_field",
    "0004_copy",
    "0005_map_objects",
    "0006_map_entities",
    "0007_delete",
    "0008_fill",
    "0009_copy_elsewhere",
]
DEATHS = ["checkpoint not committed", "batch committed"]
ELSEWHERE = "default"
"""Where the last one copies to: for the servers' databases another one, so without a transaction around both."""


def deaths_of(name):
    return ["checkpoint not committed", "step committed"] if name == "0009_copy_elsewhere" else DEATHS


@pytest.fixture(autouse=True)
def elsewhere(db_alias):
    yield
    if db_alias != ELSEWHERE:
        databases.empty(ELSEWHERE)


def make_people(db_alias, rows):
    manager = Person.objects.using(db_alias)
    for start in range(0, rows, 10_000):
        manager.bulk_create(Person(name=f"Person {index}") for index in range(start, min(start + 10_000, rows)))
    connection = connections[db_alias]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE people_person SET {connection.ops.quote_name('old code')} = 'left'")


def kill_in_the_middle(fleet, name, deaths):
    """Start workers that die at these places, one after the other, and let the last worker finish."""
    plan = fleet.launch(f"people:{name}")
    for place in deaths:
        worker = fleet.start(*filter(None, [plan]), die_at=place)
        plan = None
        worker.wait()
        assert fleet.status() == "running"
    fleet.start(*filter(None, [plan]))


def assert_all_was_done_once(name, db_alias, rows):
    people = Person.objects.using(db_alias)
    keys = list(people.order_by("pk").values_list("pk", flat=True))
    if name in ("0001_add", "0005_map_objects"):
        assert set(people.values_list("n", flat=True)) == {1}
    elif name == "0002_copy_field":
        assert set(people.values_list("nick", flat=True)) == {f"Person {index}" for index in range(rows)}
    elif name == "0003_remove_field":
        assert old_codes(db_alias) == [None]
    elif name == "0008_fill":
        assert set(people.values_list("age", flat=True)) == {7}
    elif name in ("0004_copy", "0009_copy_elsewhere"):
        place = db_alias if name == "0004_copy" else ELSEWHERE
        assert list(Archived.objects.using(place).order_by("pk").values_list("pk", "name")) == list(
            people.order_by("pk").values_list("pk", "name")
        )
    elif name == "0006_map_entities":
        assert oracle.calls(db_alias) == keys
        assert {nick.title() for nick in people.values_list("nick", flat=True)} == {
            f"Person {index}" for index in range(rows)
        }
    else:
        assert keys == []
    # A stage that is done once, such as the end of copying, counts as one.
    assert oracle.tally(db_alias) == (rows + ("copy" in name and "field" not in name), 0, 0)


def old_codes(db_alias):
    connection = connections[db_alias]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT {connection.ops.quote_name('old code')} FROM people_person")
        return [code for (code,) in cursor.fetchall()]


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_operation_goes_on_and_repeats_nothing(db_alias, name):
    make_people(db_alias, ROWS)

    with Fleet(db_alias, LEASE=0.4, SHARDS=2) as fleet:
        kill_in_the_middle(fleet, name, deaths_of(name))
        fleet.wait_until_applied()

    assert_all_was_done_once(name, db_alias, ROWS)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_thousand_rows_bear_ten_kills(db_alias, name):
    rows = 100_000
    make_people(db_alias, rows)

    with Fleet(db_alias, threads=2, LEASE=0.5) as fleet:
        kill_in_the_middle(fleet, name, deaths_of(name) * 3)
        for _ in range(4):
            wait_until(lambda: ShardRecord.objects.using(db_alias).filter(lease_token__isnull=False).exists())
            if fleet.status() == "running":
                random.choice(fleet.alive()).kill()
                fleet.start()
        fleet.wait_until_applied(timeout=300)

    assert_all_was_done_once(name, db_alias, rows)
