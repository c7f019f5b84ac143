import datetime as dt
import uuid

import pytest
from django.db import IntegrityError, connections
from django.db.models import F, Value
from django.db.models.functions import Concat, Upper
from django.db.models.signals import post_delete

from massmigration import api
from massmigration.definitions.stages import only_mapped
from massmigration.exceptions import BadMigrationFile
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    CopyModelData,
    DeleteModelData,
    MapFunctionOnEntities,
    MapFunctionOnObjects,
    OperationsMigration,
    RemoveFieldData,
)
from testsupport.adhoc import IMMEDIATE, launch, register
from testsupport.people.models import Archived, Badge, Card, Member, Person, Town, Visit

ROWS = 30


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 7


def make_people(db_alias, count=ROWS, **fields):
    """Every second has a colour."""
    Person.objects.using(db_alias).bulk_create(
        Person(**{"name": f"Person {index}", "favourite_colour": None if index % 2 else "red", **fields})
        for index in range(count)
    )


def run(monkeypatch, db_alias, *operations, **attributes):
    migration = type("Migration", (OperationsMigration,), {"operations": operations, **attributes})
    return launch(register(monkeypatch, migration), db_alias)


def values(db_alias, name, model=Person):
    return list(model.objects.using(db_alias).order_by("pk").values_list(name, flat=True))


def old_codes(db_alias):
    connection = connections[db_alias]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT {connection.ops.quote_name('old code')} FROM people_person")
        return [code for (code,) in cursor.fetchall()]


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        pytest.param("green", ["green"], id="constant"),
        pytest.param(Upper("nick"), ["ANN"], id="expression"),
        pytest.param(lambda person: person.nick + "!", ["ann!"], id="callable"),
        pytest.param(Person._meta.get_field("favourite_colour"), ["blue"], id="field"),
    ],
)
def test_a_field_is_filled_where_it_is_null(db_alias, monkeypatch, value, filled):
    make_people(db_alias, nick="ann")

    record = run(monkeypatch, db_alias, AddFieldData("people.Person", "favourite_colour", value))

    assert record.status == "applied", record.last_error
    assert values(db_alias, "favourite_colour") == ["red", *filled] * (ROWS // 2)


def test_without_a_value_the_fields_own_default_is_filled_in(db_alias, monkeypatch):
    make_people(db_alias)

    run(monkeypatch, db_alias, AddFieldData("people.Person", "favourite_colour"))

    assert values(db_alias, "favourite_colour") == ["red", "blue"] * (ROWS // 2)


def test_a_default_that_is_called_is_called_for_each_object(db_alias, monkeypatch):
    make_people(db_alias, token=None)

    run(monkeypatch, db_alias, AddFieldData(Person, "token"))

    found = values(db_alias, "token")
    assert len(set(found)) == ROWS
    assert all(isinstance(token, uuid.UUID) for token in found)


def test_with_overwrite_every_row_is_filled(db_alias, monkeypatch):
    make_people(db_alias)

    run(monkeypatch, db_alias, AddFieldData("people.Person", "favourite_colour", "green", overwrite=True))

    assert set(values(db_alias, "favourite_colour")) == {"green"}


def test_a_foreign_key_is_filled_by_key_or_by_object(db_alias, monkeypatch):
    make_people(db_alias)
    bonn, rome = (Town.objects.using(db_alias).create(name=name) for name in ("Bonn", "Rome"))
    by_object = AddFieldData("people.Person", "town", lambda person: rome if person.favourite_colour else None)

    run(monkeypatch, db_alias, by_object, AddFieldData("people.Person", "town", bonn.pk))

    assert values(db_alias, "town_id") == [rome.pk, bonn.pk] * (ROWS // 2)


def test_a_column_is_copied_to_another(db_alias, monkeypatch):
    make_people(db_alias)

    run(monkeypatch, db_alias, CopyFieldData("people.Person", "name", "nick"))

    assert values(db_alias, "nick") == values(db_alias, "name")


def test_a_field_is_emptied(db_alias, monkeypatch):
    make_people(db_alias)

    record = run(monkeypatch, db_alias, RemoveFieldData("people.Person", "favourite_colour"))

    assert values(db_alias, "favourite_colour") == [None] * ROWS
    assert record.total == ROWS // 2


def test_a_column_that_the_model_no_longer_has_is_emptied(db_alias, monkeypatch):
    make_people(db_alias)
    connection = connections[db_alias]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE people_person SET {connection.ops.quote_name('old code')} = 'left'")

    record = run(monkeypatch, db_alias, RemoveFieldData("people.Person", "old code"))

    assert record.status == "applied", record.last_error
    assert old_codes(db_alias) == [None]


@pytest.mark.parametrize("cascade", [True, False])
def test_rows_are_deleted_in_batches(db_alias, monkeypatch, cascade):
    make_people(db_alias)

    record = run(monkeypatch, db_alias, DeleteModelData("people.Person", cascade=cascade))

    assert record.status == "applied", record.last_error
    assert not Person.objects.using(db_alias).exists()


def test_with_cascade_what_refers_to_a_row_goes_with_it_and_signals_are_sent(db_alias, monkeypatch):
    make_people(db_alias)
    Visit.objects.using(db_alias).bulk_create(Visit(person=person) for person in Person.objects.using(db_alias))
    Member.objects.using(db_alias).create(name="member")
    gone = []
    post_delete.connect(lambda instance, **kwargs: gone.append(instance), sender=Person, weak=False, dispatch_uid="x")

    run(monkeypatch, db_alias, DeleteModelData("people.Person"))

    post_delete.disconnect(sender=Person, dispatch_uid="x")
    assert not Person.objects.using(db_alias).exists()
    assert not Visit.objects.using(db_alias).exists()
    assert len(gone) == ROWS + 1


def test_without_cascade_the_database_refuses_a_row_that_others_refer_to(db_alias, monkeypatch):
    make_people(db_alias)
    visited = Person.objects.using(db_alias).order_by("pk")[9]
    Visit.objects.using(db_alias).create(person=visited)

    record = run(monkeypatch, db_alias, DeleteModelData("people.Person", cascade=False))

    assert record.status == "failed"
    assert IntegrityError.__name__ in record.last_error
    assert str(visited.pk) in record.last_error
    assert Person.objects.using(db_alias).order_by("pk").first() == visited


@pytest.mark.parametrize(
    "queryset",
    [lambda rows: rows.filter(favourite_colour=None), Person.objects.filter(favourite_colour=None)],
    ids=["function", "queryset"],
)
def test_only_the_rows_of_a_queryset_are_deleted(db_alias, monkeypatch, queryset):
    make_people(db_alias)

    run(monkeypatch, db_alias, DeleteModelData("people.Person", queryset))

    assert values(db_alias, "favourite_colour") == ["red"] * (ROWS // 2)


def test_a_function_saves_or_has_the_engine_save(db_alias, monkeypatch):
    def save(person):
        person.nick = "saved"
        person.save(update_fields=["nick"])

    def assign(person):
        person.favourite_colour = "assigned"

    make_people(db_alias)

    run(
        monkeypatch,
        db_alias,
        MapFunctionOnObjects("people.Person", save),
        MapFunctionOnObjects("people.Person", assign, update_fields=["favourite_colour"]),
    )

    assert set(values(db_alias, "nick")) == {"saved"}
    assert set(values(db_alias, "favourite_colour")) == {"assigned"}


def test_what_a_function_changes_in_an_entity_is_written(db_alias, monkeypatch):
    def change(entity):
        assert entity.kind == "people_person"
        entity["name"] = f"{entity['name']} of {entity.key}"
        entity["data"]["seen"] = True
        del entity["token"]

    make_people(db_alias)

    record = run(monkeypatch, db_alias, MapFunctionOnEntities("people.Person", change))

    assert record.status == "applied", record.last_error
    people = Person.objects.using(db_alias).all()
    assert all(person.name.endswith(f" of {person.pk}") for person in people)
    assert all((person.data, person.token) == ({"seen": True}, None) for person in people)


def test_a_property_that_is_no_column_is_the_functions_error(db_alias, monkeypatch):
    make_people(db_alias, 1)

    record = run(monkeypatch, db_alias, MapFunctionOnEntities("people.Person", lambda entity: entity.update(x=1)))

    assert record.status == "failed"
    assert "set 'x', for which table 'people_person' has no column" in record.last_error


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


def test_operations_are_done_in_order(db_alias, monkeypatch):
    make_people(db_alias)

    record = run(
        monkeypatch,
        db_alias,
        AddFieldData("people.Person", "nick", Upper("name")),
        CopyModelData("people.Person", "people.Archived"),
        DeleteModelData("people.Person", cascade=False),
    )

    assert record.status == "applied", record.last_error
    assert values(db_alias, "nick", Archived) == [f"PERSON {index}" for index in range(ROWS)]
    assert not Person.objects.using(db_alias).exists()


def test_what_the_migration_says_holds_for_each_operation(monkeypatch):
    class Migration(OperationsMigration):
        operations = [AddFieldData("Person", "nick", "x"), CopyFieldData("Person", "name", "nick", batch_size=9)]
        batch_size = 3
        on_error = "continue"
        atomic = False

    first, second = Migration("people", "0001_x").get_stages()

    assert (first.batch_size, second.batch_size) == (3, 9)
    assert {stage.on_error for stage in (first, second)} == {"continue"}
    assert {stage.atomic for stage in (first, second)} == {False}


def test_a_row_that_fails_is_found(db_alias, monkeypatch):
    make_people(db_alias)
    guilty = Person.objects.using(db_alias).order_by("pk")[12]

    def fail(person):
        if person.pk == guilty.pk:
            raise RuntimeError("not this one")
        return "x"

    record = run(monkeypatch, db_alias, AddFieldData("people.Person", "nick", fail, on_error="continue"))

    assert record.status == "failed"
    assert list(Person.objects.using(db_alias).filter(nick=None)) == [guilty]


def test_what_is_wrong_is_told_at_launch(monkeypatch):
    migration = type("Migration", (OperationsMigration,), {"operations": [AddFieldData("people.Nobody", "x", 1)]})
    key = register(monkeypatch, migration)

    with pytest.raises(BadMigrationFile, match=r"AddFieldData in migration .* there is no model 'people.Nobody'"):
        api.launch(key)
