"""Copies of rows to another model of the same database."""

import datetime as dt

import pytest
from django.db import IntegrityError
from django.db.models import Count, F, Value
from django.db.models.functions import Concat

from massmigration.definitions.stages import only_mapped
from massmigration.operations import CopyModelData, OperationsMigration
from testsupport.inline_migrations import IMMEDIATE
from testsupport.operations_app.models import Archived, Badge, Card, Person, Town, Visit
from testsupport.operations_app.rows import ROWS, make_people, run, values


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 7


def test_rows_are_copied_with_their_keys(db_alias, monkeypatch):
    town = Town.objects.using(db_alias).create(name="Bonn")
    make_people(db_alias, town=town, age=7, data={"a": [1, "ä"]})

    record = run(monkeypatch, db_alias, CopyModelData("people.Person", "people.Archived"))

    assert record.status == "applied", record.last_error
    names = ["name", "nick", "favourite_colour", "token", "age", "data", "town", "n"]
    copies = Archived.objects.using(db_alias).order_by("pk")
    assert list(copies.values_list("pk", *names)) == list(
        Person.objects.using(db_alias).order_by("pk").values_list("pk", *names)
    )
    assert set(values(db_alias, "reason", Archived)) == {"old"}
    # The next key is beyond those that were copied.
    assert Archived.objects.using(db_alias).create(name="new").pk > copies.filter(n=0).order_by("-pk")[1].pk


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_row_that_is_there_is_left_alone_or_overwritten(db_alias, monkeypatch, overwrite):
    make_people(db_alias)
    there = Person.objects.using(db_alias).order_by("pk")[12]
    Archived.objects.using(db_alias).create(pk=there.pk, name="was here", reason="kept")

    record = run(
        monkeypatch,
        db_alias,
        CopyModelData("people.Person", "people.Archived", map={"reason": Value("copied")}, overwrite=overwrite),
    )

    assert record.status == "applied", record.last_error
    found = Archived.objects.using(db_alias).get(pk=there.pk)
    assert (found.name, found.reason) == ((there.name, "copied") if overwrite else ("was here", "kept"))
    assert Archived.objects.using(db_alias).filter(reason="copied").count() == ROWS - 1 + overwrite


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_with_another_unique_column_is_no_other(db_alias, monkeypatch, overwrite):
    make_people(db_alias)
    there = Person.objects.using(db_alias).order_by("pk")[12]
    Badge.objects.using(db_alias).create(pk=there.pk, label="was here")

    record = run(
        monkeypatch,
        db_alias,
        CopyModelData("people.Person", "people.Badge", [], {"label": "name"}, overwrite=overwrite),
    )

    assert record.status == "applied", record.last_error
    assert Badge.objects.using(db_alias).get(pk=there.pk).label == (there.name if overwrite else "was here")
    assert Badge.objects.using(db_alias).count() == ROWS


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_row_in_conflict_by_another_key_is_found_and_not_passed_over(db_alias, monkeypatch, overwrite):
    make_people(db_alias)
    guilty = Person.objects.using(db_alias).order_by("pk")[12]
    Badge.objects.using(db_alias).create(pk=guilty.pk + 1000, label=guilty.name)

    operation = CopyModelData("people.Person", "people.Badge", [], {"label": "name"}, overwrite=overwrite)
    record = run(monkeypatch, db_alias, operation)

    assert record.status == "failed"
    assert IntegrityError.__name__ in record.last_error
    assert str(guilty.pk) in record.last_error
    assert Badge.objects.using(db_alias).count() == 12 + 1


def test_what_python_computes_is_computed_for_each_row(db_alias, monkeypatch):
    make_people(db_alias)

    record = run(
        monkeypatch,
        db_alias,
        CopyModelData("people.Person", "people.Card", [], {"label": Concat(F("name"), Value("!"))}),
    )

    assert record.status == "applied", record.last_error
    cards = Card.objects.using(db_alias).all()
    assert {card.label for card in cards} == {f"Person {index}!" for index in range(ROWS)}
    assert len({card.serial for card in cards}) == ROWS
    assert all(isinstance(card.issued_at, dt.datetime) for card in cards)


def test_copying_ends_with_nothing_that_matters_without_rows():
    migration = type("Migration", (OperationsMigration,), {"operations": [CopyModelData(Person, Archived)]})

    stages = migration("people", "0001_copy").get_stages()

    assert (len(stages), only_mapped(stages)) == (2, [stages[0]])


@pytest.mark.parametrize(
    ("expression", "found"),
    [pytest.param(F("town__name"), "Bonn", id="join"), pytest.param(Count("visit"), "2", id="aggregate")],
)
def test_a_value_can_come_from_other_tables(db_alias, monkeypatch, expression, found):
    make_people(db_alias, town=Town.objects.using(db_alias).create(name="Bonn"))
    people = Person.objects.using(db_alias)
    Visit.objects.using(db_alias).bulk_create(Visit(person=person) for person in people.all() for _ in range(2))

    record = run(monkeypatch, db_alias, CopyModelData("people.Person", "people.Archived", map={"reason": expression}))

    assert record.status == "applied", record.last_error
    assert values(db_alias, "reason", Archived) == [found] * ROWS
