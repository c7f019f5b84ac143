import uuid

import pytest
from django.db import IntegrityError, connections
from django.db.models import Value
from django.db.models.functions import Length, Upper
from django.db.models.signals import post_delete

from massmigration import api
from massmigration.exceptions import BadMigrationFile
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    CopyModelData,
    DataOperation,
    DeleteModelData,
    MapFunctionOnEntities,
    MapFunctionOnObjects,
    OperationsMigration,
    RemoveFieldData,
)
from testsupport.inline_migrations import IMMEDIATE, register
from testsupport.operations_app.models import Archived, Member, Person, Town, Visit
from testsupport.operations_app.rows import ROWS, make_people, run, values


@pytest.fixture(autouse=True)
def immediate(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 7


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


@pytest.mark.parametrize("default", [7, Length(Value("seven!!"))], ids=["constant", "expression"])
def test_without_a_value_the_default_of_the_database_is_filled_in(db_alias, monkeypatch, default):
    field = Person._meta.get_field("age")
    monkeypatch.setitem(vars(field), "_get_default", lambda: None)  # or Django would cache one for the other tests
    monkeypatch.setattr(field, "db_default", default, raising=False)
    make_people(db_alias)

    record = run(monkeypatch, db_alias, AddFieldData("people.Person", "age"))

    assert (record.status, record.last_error) == ("applied", "")
    assert values(db_alias, "age") == [7] * ROWS


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


async def later(obj):
    raise AssertionError("Nothing runs this.")


@pytest.mark.parametrize(
    "operation",
    [
        MapFunctionOnObjects("people.Person", lambda person: later(person)),
        MapFunctionOnObjects("people.Person", lambda person: later(person), update_fields=["nick"]),
        MapFunctionOnEntities("people.Person", lambda entity: later(entity)),
        AddFieldData("people.Person", "nick", lambda person: later(person)),
    ],
    ids=["objects", "update_fields", "entities", "value"],
)
def test_a_function_that_turns_out_to_be_asynchronous_fails(db_alias, monkeypatch, operation):
    make_people(db_alias, nick=None)

    record = run(monkeypatch, db_alias, operation)

    assert record.status == "failed"
    assert "<lambda>() returned a coroutine, so none of its code was executed" in record.last_error
    assert set(values(db_alias, "nick")) == {None}


def test_a_value_can_come_from_what_python_cannot_look_into(db_alias, monkeypatch):
    make_people(db_alias)

    record = run(monkeypatch, db_alias, AddFieldData("people.Person", "nick", str))

    assert record.status == "applied", record.last_error
    assert values(db_alias, "nick") == values(db_alias, "name")


def test_a_property_that_is_no_column_is_the_functions_error(db_alias, monkeypatch):
    make_people(db_alias, 1)

    record = run(monkeypatch, db_alias, MapFunctionOnEntities("people.Person", lambda entity: entity.update(x=1)))

    assert record.status == "failed"
    assert "set 'x', but table 'people_person' has no such writable column" in record.last_error


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


class Shout(DataOperation):
    """An operation of the project."""

    def __init__(self, model, field_name, times=1):
        self.model = model
        self.field_name = field_name
        self.times = times

    def get_stages(self, context):
        def operation(obj, db_alias):
            setattr(obj, self.field_name, getattr(obj, self.field_name) + "!" * self.times)

        def get_queryset(db_alias):
            return Person.objects.using(db_alias)

        return [self.mapped(context, get_queryset, operation=operation, update_fields=[self.field_name])]


class Blue(AddFieldData):
    """An operation of this package with other arguments."""

    def __init__(self, model):
        super().__init__(model, "favourite_colour", "blue")


@pytest.mark.parametrize(
    ("operation", "described", "deconstructed"),
    [
        (
            Shout("people.Person", "name", times=2),
            "Data: Shout people.Person, name, in batches",
            ("Shout", ("people.Person", "name"), {"times": 2}),
        ),
        (Blue("people.Person"), "Data: Blue people.Person, in batches", ("Blue", ("people.Person",), {})),
        (
            AddFieldData(model_name="people.Person", name="nick", value="x", entities_per_task=7, uid="1"),
            "Data: AddFieldData people.Person, nick, x, in batches",
            ("AddFieldData", (), {"model": "people.Person", "field_name": "nick", "value": "x", "batch_size": 7}),
        ),
    ],
    ids=["own", "derived", "ours"],
)
def test_an_operation_of_the_projects_own_can_be_described_and_written_to_a_file(operation, described, deconstructed):
    assert operation.describe() == described
    name, positional, named = operation.deconstruct()
    assert (name, tuple(positional), named) == deconstructed


def test_an_operation_of_the_projects_own_runs(db_alias, monkeypatch):
    make_people(db_alias)

    record = run(monkeypatch, db_alias, Shout("people.Person", "name", times=2))

    assert (record.status, record.last_error) == ("applied", "")
    assert all(name.endswith("!!") for name in values(db_alias, "name"))


@pytest.mark.parametrize(("name", "value"), [("max_failures", -1), ("max_consecutive_failures", 0)])
def test_limits_that_make_no_sense_are_refused(name, value):
    migration = type("Migration", (OperationsMigration,), {"operations": [RemoveFieldData("people.Person", "nick")]})
    setattr(migration, name, value)

    with pytest.raises(BadMigrationFile, match=f"{name} = {value}"):
        migration("people", "0001_x").get_stages()


def test_max_consecutive_failures_ends_a_run_of_operations(db_alias, monkeypatch):
    def fail(person):
        raise ValueError("bad")

    make_people(db_alias)

    operation = MapFunctionOnObjects("people.Person", fail)
    record = run(monkeypatch, db_alias, operation, on_error="continue", max_consecutive_failures=3)

    assert record.status == "failed"
    assert "3 consecutive objects failed (max_consecutive_failures = 3)" in record.last_error
