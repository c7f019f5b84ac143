import datetime as dt
import uuid
from decimal import Decimal

import pytest

from massmigration.writers import write
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

NASTY = [
    "",
    'it\'s "quoted"',
    "100%",
    "%s %(a)s",
    "a\\b\\",
    "\\x00 {1,2}",
    "NULL",
    "null",
    "'; DROP",
    "é ß 漢 😀",
    "a\nb\tc\r",
    "{",
    '","',
    " x ",
]
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

    matched = write(db_alias, objects, [model._meta.get_field("note")])

    assert matched == len(NASTY)
    notes = {obj.pk: obj.note for obj in objects}
    assert dict(model.objects.using(db_alias).values_list("pk", "note")) == notes


def test_rows_are_found_by_a_relation_to_a_text(db_alias):
    words = Word.objects.using(db_alias).bulk_create(Word(text=f"word {number}") for number in range(3))
    Meaning.objects.using(db_alias).bulk_create(Meaning(word=word) for word in words)
    objects = list(Meaning.objects.using(db_alias).order_by("pk"))
    for obj in objects:
        obj.note = "seen"

    assert write(db_alias, objects, [Meaning._meta.get_field("note")]) == 3
    assert Meaning.objects.using(db_alias).filter(note="seen").count() == 3


def test_keys_that_differ_in_case_or_accent_are_not_taken_for_one_another(db_alias):
    texts = ["a", "A", "á"] if db_alias != "mariadb" else ["a", "b", "c"]
    Word.objects.using(db_alias).bulk_create(Word(text=text) for text in texts)
    objects = list(Word.objects.using(db_alias).order_by("pk"))
    for obj in objects:
        obj.note = f"of {obj.text}"

    write(db_alias, objects, [Word._meta.get_field("note")])

    assert dict(Word.objects.using(db_alias).values_list("text", "note")) == {text: f"of {text}" for text in texts}


@pytest.mark.parametrize("model", [Profile, Restaurant, Diner], ids=lambda model: model.__name__)
def test_rows_are_found_by_a_key_that_is_a_relation(db_alias, model):
    for number in range(4):
        place = {"place": Place.objects.using(db_alias).create(name="a")} if model is Profile else {"name": str(number)}
        model.objects.using(db_alias).create(**place)
    objects = list(model.objects.using(db_alias).order_by("pk"))
    for number, obj in enumerate(objects):
        obj.note = f"note {number}"

    assert write(db_alias, objects, [model._meta.get_field("note")]) == 4
    assert list(model.objects.using(db_alias).order_by("pk").values_list("note", flat=True)) == [
        f"note {n}" for n in range(4)
    ]


def test_columns_of_parents_and_child_are_written_together(db_alias):
    for number in range(4):
        Diner.objects.using(db_alias).create(name=str(number))
    objects = list(Diner.objects.using(db_alias).order_by("pk"))
    for number, obj in enumerate(objects):
        obj.note, obj.stars, obj.has_jukebox = f"note {number}", number, bool(number % 2)

    matched = write(db_alias, objects, [Diner._meta.get_field(name) for name in ("note", "stars", "has_jukebox")])

    assert matched == 4
    found = Diner.objects.using(db_alias).order_by("pk").values_list("note", "stars", "has_jukebox")
    assert list(found) == [(f"note {number}", number, bool(number % 2)) for number in range(4)]


def test_a_second_parent_has_keys_in_an_order_of_its_own(db_alias):
    for number in range(4):
        Cafe.objects.using(db_alias).create(shop_id=100 - (number * 7) % 10, name=str(number))
    objects = list(Cafe.objects.using(db_alias).order_by("pk"))
    for obj in objects:
        obj.wares = f"wares of {obj.name}"

    matched = write(db_alias, objects, [Cafe._meta.get_field("wares")])

    assert matched == 4
    found = Cafe.objects.using(db_alias).values_list("name", "wares")
    assert dict(found) == {str(number): f"wares of {number}" for number in range(4)}
