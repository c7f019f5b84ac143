import datetime as dt
import uuid
from decimal import Decimal

import pytest
from django.db import connections

from massmigration.paging.keyset import Keyset, encode_key
from testsupport.testapp import keyed
from testsupport.testapp.models import Meaning, Moment, Place, Price, Profile, Token, Word

DAY = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
TEXTS = ["", " ", "%", "A", "Z", "_", "a", "b", "b ", "bb", "é", "z", "ß", "漢", "😀", "'", "0", "00", "10", "9"]


def make_words(db_alias):
    # For MariaDB's collation, some of the texts are equal.
    for text in TEXTS:
        if not Word.objects.using(db_alias).filter(text=text).exists():
            Word.objects.using(db_alias).create(text=text)


def make_meanings(db_alias):
    make_words(db_alias)
    words = Word.objects.using(db_alias).all()
    Meaning.objects.using(db_alias).bulk_create(Meaning(word=word) for word in words)


def make_profiles(db_alias):
    places = [Place.objects.using(db_alias).create(name="a") for _ in range(20)]
    Profile.objects.using(db_alias).bulk_create(Profile(place=place) for place in places)


def make(model, key):
    return lambda db_alias: model.objects.using(db_alias).bulk_create(model(pk=key(number)) for number in range(20))


KINDS = {
    "integer": (Place, make(Place, lambda number: (number - 9) * 10**12 + number)),
    "text": (Word, make_words),
    "uuid": (Token, make(Token, lambda number: uuid.uuid5(uuid.NAMESPACE_DNS, str(number)))),
    "decimal": (Price, make(Price, lambda number: Decimal((number - 10) ** 7) / 1000)),
    "datetime": (Moment, make(Moment, lambda number: DAY + dt.timedelta(microseconds=3 ** (number + 5)))),
    "relation": (Profile, make_profiles),
    "relation-to-text": (Meaning, make_meanings),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_paging_meets_every_row_once(db_alias, kind, limit):
    model, make_rows = KINDS[kind]
    make_rows(db_alias)
    keyset, rows, met, after = Keyset.of(model), model.objects.using(db_alias), [], None

    while page := list(keyset.page(rows, after, None)[:limit]):
        met += [obj.pk for obj in page]
        after = keyset.encoded_key_of(page[-1])

    assert len(met) == len(set(met)) == rows.count() > 10


@kinds
def test_both_bounds_of_a_page_are_kept(db_alias, kind):
    model, make_rows = KINDS[kind]
    make_rows(db_alias)
    keyset, rows = Keyset.of(model), model.objects.using(db_alias)
    everything = list(rows.order_by("pk").values_list("pk", flat=True))

    found = keyset.page(rows, encode_key((everything[3],)), encode_key((everything[7],)))

    assert [obj.pk for obj in found] == everything[4:8]


@pytest.fixture
def pairs(db_alias):
    model = keyed.composite()
    if model is None:
        pytest.skip("Composite primary keys came with Django 5.2.")
    with keyed.table(model, db_alias):
        rows = [model(left=left, right=str(right)) for left in range(40) for right in range(25)]
        model.objects.using(db_alias).bulk_create(rows)
        yield model


def rows_read(page):
    """Return how many index entries and rows MySQL or MariaDB reads for a queryset."""
    with connections[page.db].cursor() as cursor:
        cursor.execute("FLUSH STATUS")
        list(page)
        cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
        return sum(int(count) for _, count in cursor.fetchall())


@pytest.mark.parametrize("db_alias", ["mariadb", "mysql"], indirect=True)
def test_a_page_of_composite_keys_is_sought_on_mysql_and_mariadb(db_alias, pairs):
    page = Keyset.of(pairs).page(pairs.objects.using(db_alias), [35, "5"], [39, "9"])

    assert rows_read(page[:10]) < 60


@pytest.mark.parametrize("db_alias", ["mariadb", "mysql"], indirect=True)
def test_a_page_is_sought_on_mysql_and_mariadb(db_alias):
    Place.objects.using(db_alias).bulk_create(Place(pk=number, name="a") for number in range(1, 1001))
    page = Keyset.of(Place).page(Place.objects.using(db_alias), [900], [990])

    assert rows_read(page[:10]) < 20


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_page_is_sought_on_postgresql(db_alias):
    Place.objects.using(db_alias).bulk_create(Place(pk=number, name="a") for number in range(1, 5001))
    with connections[db_alias].cursor() as cursor:
        cursor.execute("ANALYZE testapp_place")
    page = Keyset.of(Place).page(Place.objects.using(db_alias), [4000], [4900])

    plan = page[:10].explain()

    assert "Index Cond: ((id > " in plan
    assert "Sort" not in plan


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_page_of_composite_keys_is_sought_on_postgresql(db_alias, pairs):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("ANALYZE testapp_pair")
    page = Keyset.of(pairs).page(pairs.objects.using(db_alias), [35, "5"], None)

    assert 'Index Cond: ("left" >= 35)' in page[:10].explain()


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
@pytest.mark.parametrize("bound", ["pk__gt", "pk__gte"])
def test_a_page_far_behind_costs_no_more_where_the_queryset_has_a_bound_of_its_own(db_alias, bound):
    Place.objects.bulk_create(Place(name="a") for _ in range(3000))
    first, *_, middle, _ = Place.objects.order_by("pk").values_list("pk", flat=True)[::600]
    rows = Place.objects.filter(**{bound: first})
    keyset = Keyset.of(Place)

    near, far = (steps(db_alias, keyset.page(rows, [key], None)[:5]) for key in (first, middle))

    assert far < 2 * near


def steps(db_alias, queryset):
    """Return how many steps SQLite's virtual machine takes for a queryset."""
    count = 0

    def step():
        nonlocal count
        count += 1

    raw = connections[db_alias].connection
    raw.set_progress_handler(step, 1)
    try:
        assert len(list(queryset)) == 5
    finally:
        raw.set_progress_handler(None, 1)
    return count
