import datetime as dt
import uuid
from decimal import Decimal

import pytest
from django.db import connections, models
from django.db.models import JSONField, Value
from django.test.utils import CaptureQueriesContext

from massmigration.dialects import dialect_of
from testsupport.testapp import keyed
from testsupport.testapp.models import (
    Awkward,
    Cafe,
    Diner,
    Meaning,
    Moment,
    Place,
    Price,
    Profile,
    Restaurant,
    Token,
    Word,
)
from testsupport.texts import NASTY

UTC = dt.timezone.utc
DAY = dt.datetime(2024, 1, 1, tzinfo=UTC)
KEYED = {
    "char": (Word, lambda number: {"text": f"{NASTY[number][:15]}{number}"}),
    "uuid": (Token, lambda number: {"id": uuid.uuid5(uuid.NAMESPACE_URL, str(number))}),
    "decimal": (Price, lambda number: {"amount": Decimal(number) / 7 // Decimal("0.001") / 1000}),
    "datetime": (Moment, lambda number: {"at": DAY + dt.timedelta(microseconds=number * 999_983)}),
    "quoted": (Awkward, lambda number: {}),
}


@pytest.mark.parametrize("kind", KEYED)
def test_rows_are_found_by_a_key_of_any_type(db_alias, kind):
    model, key = KEYED[kind]
    model.objects.using(db_alias).bulk_create(model(**key(number)) for number in range(len(NASTY)))
    objects = list(model.objects.using(db_alias).order_by("pk"))
    for number, obj in enumerate(objects):
        obj.note = f"note {number}"

    matched = dialect_of(db_alias).write(objects, [model._meta.get_field("note")])

    assert matched == len(NASTY)
    notes = {obj.pk: obj.note for obj in objects}
    assert dict(model.objects.using(db_alias).values_list("pk", "note")) == notes


def test_rows_are_found_by_a_relation_to_a_text(db_alias):
    words = Word.objects.using(db_alias).bulk_create(Word(text=f"word {number}") for number in range(3))
    Meaning.objects.using(db_alias).bulk_create(Meaning(word=word) for word in words)
    objects = list(Meaning.objects.using(db_alias).order_by("pk"))
    for obj in objects:
        obj.note = "seen"

    assert dialect_of(db_alias).write(objects, [Meaning._meta.get_field("note")]) == 3
    assert Meaning.objects.using(db_alias).filter(note="seen").count() == 3


def test_keys_that_differ_in_case_or_accent_are_not_taken_for_one_another(db_alias):
    are_told_apart = db_alias not in ("mariadb", "mysql")  # by the collation of their columns
    texts = ["a", "A", "á"] if are_told_apart else ["a", "b", "c"]
    Word.objects.using(db_alias).bulk_create(Word(text=text) for text in texts)
    objects = list(Word.objects.using(db_alias).order_by("pk"))
    for obj in objects:
        obj.note = f"of {obj.text}"

    dialect_of(db_alias).write(objects, [Word._meta.get_field("note")])

    assert dict(Word.objects.using(db_alias).values_list("text", "note")) == {text: f"of {text}" for text in texts}


@pytest.mark.parametrize(
    "collation", ["utf8mb4_0900_ai_ci", "utf8mb4_0900_as_cs", "utf8mb4_bin", "utf8mb4_unicode_ci", "latin1_swedish_ci"]
)
@pytest.mark.parametrize("of_connection", ["utf8mb4_0900_ai_ci", "utf8mb4_unicode_ci", "utf8mb4_bin"])
@pytest.mark.parametrize("db_alias", ["mysql"], indirect=True)
def test_a_text_key_of_any_collation_is_written_in_one_statement_on_mysql(db_alias, collation, of_connection):
    dialect = dialect_of(db_alias)
    texts = ["a", "b ", "ß"] if collation.endswith("_ci") else ["a", "A", "b "]
    with keyed.table(keyed.Root, db_alias):
        dialect.execute(
            f"ALTER TABLE testapp_root MODIFY code varchar(20) CHARACTER SET {collation.split('_')[0]} "
            f"COLLATE {collation} NOT NULL"
        )
        keyed.Root.objects.using(db_alias).bulk_create(keyed.Root(code=text) for text in texts)
        objects = list(keyed.Root.objects.using(db_alias))
        for obj in objects:
            obj.note = f"of {obj.code}"
        dialect.execute(f"SET NAMES utf8mb4 COLLATE {of_connection}")

        with CaptureQueriesContext(connections[db_alias]) as queries:
            assert dialect.write(objects, [keyed.Root._meta.get_field("note")]) == len(texts)

        connections[db_alias].close()
        assert len(queries) == 1
        found = keyed.Root.objects.using(db_alias).values_list("code", "note")
        assert dict(found) == {text: f"of {text}" for text in texts}


def test_json_null_and_no_value_are_kept_apart_behind_a_text_key(db_alias):
    with keyed.table(keyed.Root, db_alias):
        keyed.Root.objects.using(db_alias).bulk_create(keyed.Root(code=text, data=[]) for text in "abc")
        objects = list(keyed.Root.objects.using(db_alias).order_by("code"))
        objects[0].data, objects[1].data, objects[2].data = Value(None, JSONField()), None, {"a": None}

        matched = dialect_of(db_alias).write(objects, [keyed.Root._meta.get_field("data")])

        found = keyed.Root.objects.using(db_alias)
        null = getattr(models, "JSONNull", lambda: None)()  # since Django 6.1
        assert matched == 3
        assert list(found.filter(data=null).values_list("pk", flat=True)) == ["a"]
        assert list(found.filter(data__isnull=True).values_list("pk", flat=True)) == ["b"]
        assert found.get(pk="c").data == {"a": None}


@pytest.mark.parametrize("model", [Profile, Restaurant, Diner], ids=lambda model: model.__name__)
def test_rows_are_found_by_a_key_that_is_a_relation(db_alias, model):
    for number in range(4):
        place = {"place": Place.objects.using(db_alias).create(name="a")} if model is Profile else {"name": str(number)}
        model.objects.using(db_alias).create(**place)
    objects = list(model.objects.using(db_alias).order_by("pk"))
    for number, obj in enumerate(objects):
        obj.note = f"note {number}"

    assert dialect_of(db_alias).write(objects, [model._meta.get_field("note")]) == 4
    assert list(model.objects.using(db_alias).order_by("pk").values_list("note", flat=True)) == [
        f"note {n}" for n in range(4)
    ]


def test_columns_of_parents_and_child_are_written_together(db_alias):
    for number in range(4):
        Diner.objects.using(db_alias).create(name=str(number))
    objects = list(Diner.objects.using(db_alias).order_by("pk"))
    for number, obj in enumerate(objects):
        obj.note, obj.stars, obj.has_jukebox = f"note {number}", number, bool(number % 2)

    fields = [Diner._meta.get_field(name) for name in ("note", "stars", "has_jukebox")]

    matched = dialect_of(db_alias).write(objects, fields)

    assert matched == 4
    found = Diner.objects.using(db_alias).order_by("pk").values_list("note", "stars", "has_jukebox")
    assert list(found) == [(f"note {number}", number, bool(number % 2)) for number in range(4)]


def test_a_second_parent_has_keys_in_an_order_of_its_own(db_alias):
    for number in range(4):
        Cafe.objects.using(db_alias).create(shop_id=100 - (number * 7) % 10, name=str(number))
    objects = list(Cafe.objects.using(db_alias).order_by("pk"))
    for obj in objects:
        obj.wares = f"wares of {obj.name}"

    matched = dialect_of(db_alias).write(objects, [Cafe._meta.get_field("wares")])

    assert matched == 4
    found = Cafe.objects.using(db_alias).values_list("name", "wares")
    assert dict(found) == {str(number): f"wares of {number}" for number in range(4)}
