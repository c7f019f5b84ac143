import random
import uuid

import pytest
from django.db import connections
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from massmigration.paging import sharding, statistics
from massmigration.paging.keyset import Keyset
from massmigration.paging.sharding import split
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.testapp.models import Place, Token


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 10)


def make(db_alias, numbers):
    Place.objects.using(db_alias).bulk_create(Place(pk=number, name="a") for number in numbers)


def sizes(db_alias, plan, queryset=None):
    """Return the number of rows of each range."""
    rows = Place.objects.using(db_alias) if queryset is None else queryset
    return [Keyset.of(rows.model).page(rows, span.lower, span.upper).count() for span in plan.ranges]


def shards_of(queryset, count):
    return split(queryset, Keyset.of(queryset.model), count)


SPARSE = {
    "dense": range(1, 401),
    "sparse": [number**3 for number in range(1, 401)],
    "two-islands": [*range(1, 381), *range(10**15, 10**15 + 20)],
    "powers": [2 ** (number % 60) + number for number in range(1, 401)],
    "random": random.Random(1).sample(range(1, 10**12), 400),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_shards_are_even_however_sparse_the_keys(db_alias, kind):
    make(db_alias, SPARSE[kind])

    plan = shards_of(Place.objects.using(db_alias), 8)

    assert sizes(db_alias, plan) == [50] * 8
    assert (plan.total, plan.is_total_estimated) == (400, False)


def test_shards_follow_the_querysets_rows_and_not_the_tables(db_alias):
    make(db_alias, range(1, 1001))
    queryset = Place.objects.using(db_alias).filter(pk__gt=900)

    plan = shards_of(queryset, 4)

    assert sizes(db_alias, plan, queryset) == [25] * 4


def test_ranges_follow_each_other_without_a_gap(db_alias):
    make(db_alias, range(1, 401))

    ranges = shards_of(Place.objects.using(db_alias), 8).ranges

    assert [span.lower for span in ranges] == [None, *(span.upper for span in ranges[:-1])]
    assert ranges[-1].upper == [400]


@pytest.mark.parametrize(("rows", "expected"), [(0, []), (1, [1]), (9, [9]), (10, [10]), (11, [10, 1]), (20, [10, 10])])
def test_few_rows_are_not_cut_finely(db_alias, rows, expected):
    make(db_alias, range(1, rows + 1))

    assert sizes(db_alias, shards_of(Place.objects.using(db_alias), 8)) == expected


def test_one_shard_is_not_walked(db_alias):
    make(db_alias, range(1, 401))

    assert sizes(db_alias, shards_of(Place.objects.using(db_alias), 1)) == [400]


@pytest.mark.parametrize("estimated", [1, 40, 399, 401, 4000, 10**9])
def test_a_wrong_estimate_loses_no_row(db_alias, monkeypatch, estimated):
    make(db_alias, range(1, 401))
    monkeypatch.setattr(sharding, "is_huge", lambda queryset: True)
    monkeypatch.setattr(sharding, "estimate", lambda queryset: estimated)

    plan = shards_of(Place.objects.using(db_alias), 4)

    assert sum(sizes(db_alias, plan)) == 400
    assert len(plan.ranges) <= 4 * sharding.MAX_SHARD_FACTOR
    assert (plan.total, plan.is_total_estimated) == (estimated, True)


def test_an_estimate_that_is_far_too_low_still_gives_even_shards(db_alias, monkeypatch):
    make(db_alias, range(1, 1001))
    monkeypatch.setattr(sharding, "is_huge", lambda queryset: True)
    monkeypatch.setattr(sharding, "estimate", lambda queryset: 0)
    monkeypatch.setattr(sharding, "split_by_statistics", lambda *arguments: None)

    found = sizes(db_alias, shards_of(Place.objects.using(db_alias), 2))

    assert len(found) <= 8
    assert max(found) <= 2 * 160


def test_a_large_table_is_estimated_and_not_counted(server_alias, monkeypatch):
    make(server_alias, range(1, 401))
    monkeypatch.setattr(statistics, "COUNT_BELOW", 100)
    analyse(server_alias, "testapp_place")

    plan = shards_of(Place.objects.using(server_alias), 4)

    assert plan.is_total_estimated
    assert 200 <= plan.total <= 800
    assert sum(sizes(server_alias, plan)) == 400


def test_a_filtered_large_table_is_estimated_by_the_filter(server_alias, monkeypatch):
    make(server_alias, range(1, 401))
    monkeypatch.setattr(sharding, "is_huge", lambda queryset: True)
    queryset = Place.objects.using(server_alias).filter(pk__lte=40).annotate(twice=F("pk") * 2)

    plan = shards_of(queryset, 4)

    assert plan.is_total_estimated
    assert sum(sizes(server_alias, plan, queryset)) == 40


def as_uuid(number):
    return uuid.UUID(int=number * 2**100)


@pytest.mark.parametrize("kind", ["integer", "two-islands", "uuid"])
def test_a_huge_table_is_cut_evenly_without_reading_it(server_alias, monkeypatch, kind):
    model = Token if kind == "uuid" else Place
    numbers = [*range(1, 1801), *range(10**12, 10**12 + 200)] if kind == "two-islands" else range(1, 2001)
    model.objects.using(server_alias).bulk_create(
        model(pk=as_uuid(number) if kind == "uuid" else number) for number in numbers
    )
    analyse(server_alias, model._meta.db_table)
    monkeypatch.setattr(statistics, "COUNT_BELOW", 100)

    with CaptureQueriesContext(connections[server_alias]) as captured:
        plan = shards_of(model.objects.using(server_alias), 8)

    found = sizes(server_alias, plan, model.objects.using(server_alias))
    assert sum(found) == 2000
    if kind == "uuid" and server_alias != "postgresql":  # MariaDB has an order of its own, and MySQL no UUIDs
        return
    assert len(found) == 8
    assert max(found) <= 2 * 250
    assert len(captured) < 8 * 50
    reading = [each["sql"] for each in captured if not each["sql"].startswith("EXPLAIN")]
    assert not [sql for sql in reading if "COUNT(" in sql or " OFFSET " in sql]


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_huge_table_without_statistics_is_cut_by_walking(db_alias, monkeypatch):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("ALTER TABLE testapp_place SET (autovacuum_enabled = false)")
        make(db_alias, range(1, 1001))
        # The number of rows is still known. Rows of earlier tests must not matter.
        analyse(db_alias, "testapp_place")
        cursor.execute("DELETE FROM pg_statistic WHERE starelid = 'testapp_place'::regclass")
        monkeypatch.setattr(sharding, "is_huge", lambda queryset: True)

        found = sizes(db_alias, shards_of(Place.objects.using(db_alias), 4))
        cursor.execute("ALTER TABLE testapp_place RESET (autovacuum_enabled)")

    assert sum(found) == 1000
    assert max(found) <= 2 * 250


def analyse(db_alias, table):
    with connections[db_alias].cursor() as cursor:
        cursor.execute(DATABASE_SERVERS[db_alias].analyze(table))
        cursor.fetchall() if db_alias != "postgresql" else None
