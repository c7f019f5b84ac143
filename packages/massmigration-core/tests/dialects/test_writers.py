import datetime as dt
import random
import uuid
from decimal import Decimal

import pytest
from django.db import DatabaseError, connections, models
from django.db.models import F, JSONField, Value
from django.db.models.functions import Upper
from django.test.utils import CaptureQueriesContext

from massmigration.dialects import dialect_of
from massmigration.dialects.base import Dialect
from testsupport.testapp.models import (
    Everything,
    Place,
    Word,
)
from testsupport.texts import NASTY

UTC = dt.timezone.utc

VALUES = {
    "small": [-32768, 0, 32767],
    "integer": [-2147483648, 0, 2147483647],
    "big": [-(2**63), 0, 1, 2**63 - 1],
    "positive_small": [0, 32767],
    "positive": [0, 2147483647],
    "positive_big": [0, 2**63 - 1],
    "decimal": [Decimal("12345678901234567890.0123456789"), Decimal("-0.1"), Decimal(0), Decimal("1E+3"), 7],
    "float": [0.1, -1e300, 1e-300, 0.0, 3, 123456789.123456789],
    "boolean": [True, False, 1],
    "char": [text[:10] for text in NASTY],
    "text": [*NASTY, "long " * 5000],
    "slug": ["a-slug", ""],
    "email": ["a@example.org"],
    "url": ["https://example.org/?q=100%25&x='"],
    "file": ["uploads/a b%.txt", ""],
    "file_path": ["/etc/hosts"],
    "uuid": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)],
    "date": [dt.date(1, 1, 1), dt.date(2024, 2, 29), dt.date(9999, 12, 31)],
    "time": [dt.time(0), dt.time(23, 59, 59, 999999)],
    "at": [
        dt.datetime(2024, 2, 29, 1, 2, 3, 4, UTC),
        dt.datetime(1999, 12, 31, tzinfo=dt.timezone(dt.timedelta(hours=-9))),
    ],
    "duration": [dt.timedelta(0), dt.timedelta(days=-3, microseconds=7), dt.timedelta(days=99999)],
    "binary": [b"", b"\x00\xff%s'\\", bytes(range(256))],
    "json": [{}, [], {"a": [None, 1, 1.5, True, "é😀%s'\"\\"]}, [[1], {"b": {}}], "text", "", 0, False, "null"],
    "ip": ["127.0.0.1", "::1", "2001:db8::ff00:42:8329"],
}
FIELDS = {field.name: field for field in Everything._meta.concrete_fields}


def stored(db_alias, name):
    return list(Everything.objects.using(db_alias).order_by("pk").values_list(name, flat=True))


def make(db_alias, count):
    Everything.objects.using(db_alias).bulk_create(Everything() for _ in range(count))
    return list(Everything.objects.using(db_alias).order_by("pk"))


def written(db_alias, names, rows):
    """Return the rows after the dialect has written the values, and after Django has saved the same values."""
    results = []
    fields = [FIELDS[name] for name in names]
    for save in (lambda objects: dialect_of(db_alias).write(objects, fields), save_each(names)):
        Everything.objects.using(db_alias).all().delete()
        objects = make(db_alias, len(rows))
        for obj, values in zip(objects, rows, strict=True):
            for name, value in zip(names, values, strict=True):
                setattr(obj, name, value)
        save(objects)
        results.append([stored(db_alias, name) for name in names])
    return results


def save_each(names):
    def save(objects):
        for obj in objects:
            obj.save(update_fields=names)

    return save


@pytest.mark.parametrize("name", VALUES)
def test_a_field_is_written_as_save_writes_it(db_alias, name):
    ours, django = written(db_alias, [name], [(value,) for value in [*VALUES[name], None, *VALUES[name]]])

    assert ours == django


@pytest.mark.parametrize("name", VALUES)
def test_nothing_but_nulls_is_written(db_alias, name):
    ours, django = written(db_alias, [name], [(None,)] * 3)

    assert ours == django


@pytest.mark.parametrize("name", VALUES)
def test_a_single_value_is_written_as_save_writes_it(db_alias, name):
    ours, django = written(db_alias, [name], [(VALUES[name][-1],)])

    assert ours == django


@pytest.mark.parametrize("seed", range(5))
def test_any_mixture_is_written_as_save_writes_it(db_alias, seed):
    dice = random.Random(seed)
    names = dice.sample([*VALUES], dice.randint(2, len(VALUES)))
    rows = [tuple(dice.choice([None, *VALUES[name]]) for name in names) for _ in range(20)]

    ours, django = written(db_alias, names, rows)

    assert ours == django


@pytest.mark.parametrize("word", NASTY)
def test_foreign_keys_are_written(db_alias, word):
    place = Place.objects.using(db_alias).create(name="a")
    Word.objects.using(db_alias).create(text=word)

    objects = make(db_alias, 2)
    objects[0].place_id, objects[1].word_id = place.pk, word
    dialect_of(db_alias).write(objects, [FIELDS["place"], FIELDS["word"]])

    assert stored(db_alias, "place") == [place.pk, None]
    assert stored(db_alias, "word") == [None, word]


def test_json_null_and_no_value_are_kept_apart(db_alias):
    objects = make(db_alias, 2)
    objects[0].json, objects[1].json = Value(None, JSONField()), None

    matched = dialect_of(db_alias).write(objects, [FIELDS["json"]])

    assert matched == 2
    found = Everything.objects.using(db_alias).order_by("pk")
    null = getattr(models, "JSONNull", lambda: None)()  # since Django 6.1
    assert list(found.values_list("pk", flat=True).filter(json=null)) == [objects[0].pk]
    assert list(found.values_list("pk", flat=True).filter(json__isnull=True)) == [objects[1].pk]


@pytest.mark.parametrize("length", [11, 5000])
def test_a_value_that_is_too_long_raises_and_is_never_cut(server_alias, length):
    objects = make(server_alias, 3)
    objects[1].char = "x" * length

    with pytest.raises(DatabaseError):
        dialect_of(server_alias).write(objects, [FIELDS["char"]])

    assert stored(server_alias, "char") == [None] * 3


@pytest.mark.parametrize(("name", "value"), [("small", 40000), ("decimal", Decimal("1E+25")), ("ip", "not an address")])
@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_value_that_does_not_fit_raises(server_alias, name, value):
    objects = make(server_alias, 2)
    setattr(objects[0], name, value)

    with pytest.raises((DatabaseError, ValueError, ArithmeticError)):
        dialect_of(server_alias).write(objects, [FIELDS[name]])


def test_vanished_rows_are_counted_out_and_not_inserted_again(db_alias):
    objects = make(db_alias, 5)
    Everything.objects.using(db_alias).filter(pk__in=[objects[0].pk, objects[3].pk, objects[4].pk]).delete()
    for obj in objects:
        obj.integer = 1

    matched = dialect_of(db_alias).write(objects, [FIELDS["integer"]])

    assert matched == 2
    assert stored(db_alias, "integer") == [1, 1]


def test_rows_written_with_what_they_had_count_as_matched(db_alias):
    objects = make(db_alias, 5)

    assert dialect_of(db_alias).write(objects, [FIELDS["integer"]]) == 5


@pytest.mark.parametrize("expression", [F("n") + 5, Value(5), F("n") + 5 * Value(1)], ids=["f", "value", "combined"])
def test_expressions_are_evaluated_by_the_database(db_alias, expression):
    Place.objects.using(db_alias).bulk_create(Place(name=f"p{number}") for number in range(4))
    objects = list(Place.objects.using(db_alias).order_by("pk"))
    for number, obj in enumerate(objects):
        obj.n = expression if number % 2 else 1
        obj.note = Upper("name") if number % 2 else "plain"

    matched = dialect_of(db_alias).write(objects, [Place._meta.get_field("n"), Place._meta.get_field("note")])

    assert matched == 4
    found = Place.objects.using(db_alias).order_by("pk").values_list("n", "note")
    assert list(found) == [(1, "plain"), (5, "P1"), (1, "plain"), (5, "P3")]


def statements_of(db_alias, objects, name):
    with CaptureQueriesContext(connections[db_alias]) as queries:
        assert dialect_of(db_alias).write(objects, [FIELDS[name]]) == len(objects)
    return [query["sql"] for query in queries]


def test_more_rows_than_one_statement_may_hold_are_cut(server_alias, monkeypatch):
    monkeypatch.setattr(Dialect, "max_statement_rows", 10)
    objects = make(server_alias, 25)
    for number, obj in enumerate(objects):
        obj.integer = number

    assert len(statements_of(server_alias, objects, "integer")) == 3
    assert stored(server_alias, "integer") == list(range(25))


def test_more_bytes_than_one_statement_may_hold_are_cut(server_alias, monkeypatch):
    monkeypatch.setattr(Dialect, "max_statement_bytes", 1000)
    objects = make(server_alias, 8)
    for number, obj in enumerate(objects):
        obj.text = str(number) * 400

    assert len(statements_of(server_alias, objects, "text")) == 4
    assert stored(server_alias, "text") == [str(number) * 400 for number in range(8)]


@pytest.mark.parametrize("name", ["text", "binary"])
def test_a_batch_of_large_values_is_written(server_alias, name):
    objects = make(server_alias, 6)
    for number, obj in enumerate(objects):
        setattr(obj, name, str(number) * 4_000_000 if name == "text" else bytes([number]) * 3_500_000)

    dialect_of(server_alias).write(objects, [FIELDS[name]])

    assert [value[0] for value in stored(server_alias, name)] == [getattr(obj, name)[0] for obj in objects]


def test_one_statement_writes_several_columns_of_many_rows(server_alias):
    objects = make(server_alias, 50)
    for obj in objects:
        obj.integer, obj.text = 5, "five"

    with CaptureQueriesContext(connections[server_alias]) as queries:
        dialect_of(server_alias).write(objects, [FIELDS["integer"], FIELDS["text"]])

    assert len(queries) == 1
