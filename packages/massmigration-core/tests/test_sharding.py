import random

import pytest
from django.db import connections
from django.db.models import F

from massmigration import estimates, sharding
from massmigration.keyset import Keyset
from massmigration.sharding import cut
from testsupport.testapp.models import Place


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 10)


def make(db_alias, numbers):
    Place.objects.using(db_alias).bulk_create(Place(pk=number, name="a") for number in numbers)


def sizes(db_alias, plan, queryset=None):
    """How many rows each range holds."""
    rows = Place.objects.using(db_alias) if queryset is None else queryset
    return [Keyset.of(Place).page(rows, span.lower, span.upper).count() for span in plan.ranges]


def shards_of(queryset, count):
    return cut(queryset, Keyset.of(queryset.model), count)


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

    found = sizes(db_alias, shards_of(Place.objects.using(db_alias), 2))

    assert len(found) <= 8
    assert max(found) <= 2 * 160


def test_a_large_table_is_estimated_and_not_counted(server_alias, monkeypatch):
    make(server_alias, range(1, 401))
    monkeypatch.setattr(estimates, "COUNT_BELOW", 100)
    with connections[server_alias].cursor() as cursor:
        cursor.execute("ANALYZE testapp_place" if server_alias == "postgresql" else "ANALYZE TABLE testapp_place")
        cursor.fetchall() if server_alias == "mariadb" else None

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
