"""The WHERE of a batch, for statements of one's own."""

import datetime as dt
import itertools
import uuid
from decimal import Decimal

import pytest
from django.db import connections
from django.db.models import Exists, F, OuterRef, Q
from django.db.models.expressions import RawSQL
from django.db.models.functions import Lower

from massmigration import api
from massmigration.exceptions import BadQuerySet
from massmigration.migrations import MapperMigration
from massmigration.paging.keyset import Keyset, decode_key, encode_key
from massmigration.paging.querysets import where_sql
from testsupport.inline_migrations import IMMEDIATE, register
from testsupport.marks import only_sqlite
from testsupport.testapp import keyed
from testsupport.testapp.models import Item, Moment, Person, Price, Profile, Restaurant, Token, Word

CONDITIONS = {
    "all": Q(),
    "range": Q(pk__gt=2, pk__lte=5),
    "list": Q(pk__in=[1, 3, 5]),
    "none": Q(pk__in=[]),
    "any": ~Q(pk__in=[]),
    "one": Q(pk=4),
    "or": Q(pk=1) | Q(name="Item 3"),
    "not": ~Q(name="Item 3"),
    "null": Q(slug=None),
    "columns": Q(n__lt=F("id")),
    "text": Q(name__istartswith="item", name__contains="%"),
    "quotes": Q(name="it's"),
    "json": Q(data__a=1),
}


def make_items(db_alias, count):
    """Make items with the keys from 1."""
    Item.objects.using(db_alias).bulk_create(Item(pk=number, name=f"Item {number}") for number in range(1, count + 1))


def ids(db_alias, sql, params):
    with connections[db_alias].cursor() as cursor:
        cursor.execute(sql, params)
        return sorted(key for (key,) in cursor.fetchall())


@pytest.mark.parametrize("name", CONDITIONS)
def test_it_is_the_condition_of_the_queryset(db_alias, name):
    make_items(db_alias, 6)
    Item.objects.using(db_alias).create(pk=9, name="it's 100%", data={"a": 1})
    queryset = Item.objects.using(db_alias).filter(CONDITIONS[name])

    where, params = where_sql(queryset, alias="o")

    sql = f"SELECT o.id FROM testapp_item o {'WHERE ' + where if where else ''}"
    assert ids(db_alias, sql, params or None) == sorted(queryset.values_list("pk", flat=True))
    assert "testapp_item" not in where


def test_it_can_be_asked_of_another_table(db_alias):
    make_items(db_alias, 3)
    quote = connections[db_alias].ops.quote_name
    queryset = Item.objects.using(db_alias).filter(pk__gt=1, name__in=["Item 1", "Item 2"])

    where, params = where_sql(queryset, alias="s", columns={"id": "number", "name": "title"})

    inner = f"SELECT id AS {quote('number')}, name AS {quote('title')} FROM testapp_item"
    found = ids(db_alias, f"SELECT s.number FROM ({inner}) s WHERE {where}", params)
    assert found == sorted(queryset.values_list("pk", flat=True))


def test_it_works_without_another_name(db_alias):
    make_items(db_alias, 3)

    where, params = where_sql(Item.objects.using(db_alias).filter(pk=2))

    assert len(ids(db_alias, f"SELECT id FROM testapp_item WHERE {where}", params)) == 1


class Copying(MapperMigration):
    """Logs the rows of its batches by its own SQL, and refuses one item."""

    batch_size = 3

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation_batch(self, queryset, db_alias):
        where, params = where_sql(queryset, alias="o")
        with connections[db_alias].cursor() as cursor:
            cursor.execute(
                "INSERT INTO testapp_call (migration, item, worker) "
                f"SELECT 'copy', o.id, '' FROM testapp_item o WHERE {where}",
                params,
            )
        if queryset.filter(name="Item 4").exists():
            raise ValueError("not this one")

    on_error = "continue"


def test_a_batch_and_its_single_objects_are_the_same_rows_for_it(db_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    key = register(monkeypatch, Copying)
    make_items(db_alias, 7)

    api.launch(key, db_alias)

    good = Item.objects.using(db_alias).exclude(name="Item 4")
    copied = ids(db_alias, "SELECT item FROM testapp_call", None)
    assert copied == sorted(good.values_list("pk", flat=True))


@only_sqlite
def test_a_foreign_key_and_a_key_that_is_text_are_columns(db_alias):
    assert where_sql(Profile.objects.using(db_alias).filter(pk=3), "x") == ('"x"."place_id" = %s', (3,))
    assert where_sql(Person.objects.using(db_alias).filter(home=3), "x") == ('"x"."home_id" = %s', (3,))
    assert where_sql(Word.objects.using(db_alias).filter(text="a"), "x") == ('"x"."text" = %s', ("a",))


REFUSED = {
    "join": lambda db: Person.objects.using(db).filter(home__name="x"),
    "parent": lambda db: Restaurant.objects.using(db).filter(name="x"),
    "subquery": lambda db: Item.objects.using(db).filter(pk__in=Word.objects.using(db).values("n")),
    "exists": lambda db: Item.objects.using(db).filter(Exists(Word.objects.using(db).filter(n=OuterRef("n")))),
    "raw": lambda db: Item.objects.using(db).filter(n=RawSQL("testapp_item.id", ())),
    "extra": lambda db: Item.objects.using(db).extra(where=["testapp_item.id = 1"]),
}


@pytest.mark.parametrize("name", REFUSED)
@only_sqlite
def test_what_cannot_be_renamed_is_refused(db_alias, name):
    with pytest.raises(BadQuerySet, match=r"where_sql\(\)"):
        where_sql(REFUSED[name](db_alias), "o")


@only_sqlite
def test_the_queryset_is_left_as_it_is(db_alias):
    make_items(db_alias, 3)
    queryset = Item.objects.using(db_alias).filter(pk__lte=2).annotate(lower=Lower("name"))
    before = str(queryset.query)

    where_sql(queryset, "o", {"id": "number"})

    assert str(queryset.query) == before
    assert queryset.count() == 2


def pages(queryset):
    """Return the pages of two rows that batches go by, single rows, and a list of keys."""
    keyset = Keyset.of(queryset.model)
    found = [encode_key(key) for key in keyset.rows(keyset.page(queryset, None, None))]
    bounds = [None, *found[1::2], None]
    yield from (keyset.page(queryset, *pair).order_by() for pair in itertools.pairwise(bounds))
    yield from (queryset.filter(keyset.exactly(decode_key(key))) for key in found)
    yield queryset.filter(keyset.among([decode_key(key) for key in found[::2]]))


@pytest.mark.parametrize("model", [Token, Word, Price, Moment], ids=lambda model: model.__name__)
def test_keys_of_any_type_are_compared_as_the_queryset_compares_them(db_alias, model):
    keys = {
        Token: [uuid.UUID(int=number << 100) for number in range(5)],
        Word: ["a", "B", "é", "%s", "it's"],
        Price: [Decimal(number) / 8 for number in range(5)],
        Moment: [dt.datetime(2026, 1, 2, 3, 4, number, number, dt.timezone.utc) for number in range(5)],
    }[model]
    model.objects.using(db_alias).bulk_create(model(pk=key) for key in keys)

    check_pages(db_alias, model)


def test_keys_of_several_columns_are_compared_as_the_queryset_compares_them(db_alias):
    model = keyed.composite()
    if model is None:
        pytest.skip("Composite keys are new in Django 5.2.")
    with keyed.table(model, db_alias):
        model.objects.using(db_alias).bulk_create(model(left=n // 3, right=f"r{n % 3}") for n in range(7))

        check_pages(db_alias, model)


def check_pages(db_alias, model):
    quote, keyset = connections[db_alias].ops.quote_name, Keyset.of(model)
    columns = [model._meta.get_field(name).column for name in keyset.fields]
    names = ", ".join(f"{quote(column)} AS {quote('k' + column)}" for column in columns)
    renamed = {column: f"k{column}" for column in columns}
    for page in pages(model.objects.using(db_alias)):
        where, params = where_sql(page, alias="s", columns=renamed)
        with connections[db_alias].cursor() as cursor:
            inner = f"SELECT {names} FROM {quote(model._meta.db_table)}"
            cursor.execute(f"SELECT count(*) FROM ({inner}) s {'WHERE ' + where if where else ''}", params or None)
            (count,) = cursor.fetchone()
        assert count == page.count()
