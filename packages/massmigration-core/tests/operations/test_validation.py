"""Mistakes in an operation, which are reported before its launch, with what to do."""

import io
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.models import Count, F, Window
from django.db.models.functions import RowNumber

from massmigration import api, checks
from massmigration.exceptions import BadMigrationFile
from massmigration.migrations import BaseMigration
from massmigration.models import MigrationRecord
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    CopyModelData,
    CopyModelDataToNamespace,
    DeleteModelData,
    MapFunctionOnEntities,
    MapFunctionOnObjects,
    OperationsMigration,
    RemoveFieldData,
)
from massmigration.verbs import VERBS
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.inline_migrations import IMMEDIATE, register
from testsupport.operations_app.models import Person, Town


async def asynchronous(obj):
    pass


def yielding(obj):
    yield


WRONG = {
    "unknown model": (AddFieldData("people.Nobody", "x", 1), "there is no model 'people.Nobody'"),
    "unknown app": (AddFieldData("nobody.Person", "x", 1), "there is no model 'nobody.Person'"),
    "no model": (AddFieldData(7, "x", 1), "7 is not a model; it must be a string"),
    "unknown field": (AddFieldData("people.Person", "x", 1), "people.Person has no field 'x'; it has: age, data"),
    "reverse relation": (AddFieldData("people.Person", "visit", 1), "people.Person.visit is not a column"),
    "many-to-many": (AddFieldData("people.Club", "people", 1), "is a many-to-many relation; name the model of"),
    "primary key": (AddFieldData("people.Person", "id", 1), "is a primary key, which operations do not change"),
    "parent's field": (AddFieldData("people.Member", "nick", "x"), "is in the table of the parent people.Person"),
    "wrong type": (
        AddFieldData("people.Person", "age", "old"),
        "'old' is not a valid value for people.Person.age, a Integer",
    ),
    "wrong uuid": (AddFieldData("people.Person", "token", "x"), "'x' is not a valid value for people.Person.token"),
    "too long": (AddFieldData("people.Badge", "strict", "123456"), "at most 5 characters"),
    "null": (AddFieldData("people.Person", "name", None), "is NOT NULL, so its value cannot be None"),
    "no default": (AddFieldData("people.Person", "age"), "people.Person.age has no default. Pass the value"),
    "callable without argument": (
        AddFieldData("people.Person", "token", uuid.uuid4),
        "Pass a function that takes the object",
    ),
    "unknown name in an expression": (AddFieldData("people.Person", "age", F("x") + 1), "cannot be computed for"),
    "window function": (
        AddFieldData("people.Person", "age", Window(RowNumber(), order_by="name") + 1),
        "contains a window function, which would be computed separately for each batch. Put it into a Subquery",
    ),
    "aggregate": (AddFieldData("people.Person", "age", Count("id")), "contains an aggregate"),
    "copied to itself": (CopyFieldData("people.Person", "name", "name"), "are the same field"),
    "copied to another type": (CopyFieldData("people.Person", "name", "age"), "(CharField) cannot be copied to"),
    "emptied NOT NULL": (RemoveFieldData("people.Person", "name"), "people.Person.name is NOT NULL and cannot be empt"),
    "no name": (RemoveFieldData("people.Person", ""), "field_name = '' must be the name of a field or a column"),
    "inherited rows": (DeleteModelData("people.Member", cascade=False), "which cascade=False would not delete"),
    "another model's queryset": (
        DeleteModelData("people.Person", Town.objects.all()),
        "is of model people.Town; it must be",
    ),
    "no queryset": (DeleteModelData("people.Person", 7), "queryset = 7 must be a queryset or a function"),
    "onto itself": (CopyModelData("people.Person", "people.Person"), "it would copy people.Person onto itself"),
    "target lacks fields": (CopyModelData("people.Person", "people.Badge"), "people.Badge has no 'name', 'nick'"),
    "target needs a value": (
        CopyModelData("people.Town", "people.Badge", []),
        "people.Badge.label is NOT NULL, has",
    ),
    "inheriting source": (
        CopyModelData("people.Member", "people.Archived"),
        "the rows of people.Member are in several tables",
    ),
    "many-to-many source": (CopyModelData("people.Club", "people.Town"), "has many-to-many relations (people)"),
    "unknown field to copy": (CopyModelData("people.Person", "people.Badge", ["x"]), "people.Person has no field 'x'"),
    "map of a key": (
        CopyModelData("people.Town", "people.Badge", [], {"id": "name"}),
        "primary key, which is always copied",
    ),
    "map that is no dict": (CopyModelData("people.Town", "people.Badge", [], 7), "map = 7 must be a dict"),
    "map to another type": (
        CopyModelData("people.Person", "people.Badge", [], {"label": "age"}),
        "people.Person.age (IntegerField) cannot be copied to people.Badge.label (CharField) without",
    ),
    "map by a window function": (
        CopyModelData("people.Person", "people.Archived", map={"age": Window(RowNumber(), order_by="name")}),
        "contains a window function, which would be computed separately for each batch",
    ),
    "map by what may be many": (
        CopyModelData("people.Person", "people.Archived", map={"n": F("visit__id") + 1}),
        "may have several values for a row of people.Person. Use an aggregate, such as Max, or a Subquery",
    ),
    "no namespace": (CopyModelDataToNamespace("people.Person", ""), "to_namespace = '' must be a non-empty string"),
    "function without argument": (MapFunctionOnObjects("people.Person", lambda: 1), "it must take one argument"),
    "asynchronous function": (
        MapFunctionOnObjects("people.Person", asynchronous),
        "it is asynchronous or contains yield, so a call would execute none of its code",
    ),
    "function with a yield": (MapFunctionOnEntities("people.Person", yielding), "it is asynchronous or contains yield"),
    "asynchronous value": (AddFieldData("people.Person", "nick", asynchronous), "it is asynchronous or contains yield"),
    "no function": (MapFunctionOnEntities("people.Person", 7), "it is not a function"),
    "update_fields that is a text": (
        MapFunctionOnObjects("people.Person", len, "nick"),
        "must be a list of field names",
    ),
    "unknown update_fields": (MapFunctionOnObjects("people.Person", repr, ["x"]), "has no field 'x'"),
    "on_error": (AddFieldData("people.Person", "age", 1, on_error="x"), "on_error = 'x'"),
    "batch_size": (AddFieldData("people.Person", "age", 1, batch_size=0), "batch_size = 0"),
}


def migration_of(*operations):
    return type("Migration", (OperationsMigration,), {"operations": operations})


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_a_check_error(case):
    operation, words = WRONG[case]
    migration = migration_of(operation)("people", "0001_wrong")

    (message,) = checks.check_migration(migration)

    assert message.id == "massmigration.E005"
    assert message.msg.startswith(f"{type(operation).__name__} in migration 'people:0001_wrong': ")
    assert words in message.msg


@pytest.mark.parametrize("operations", [(), 7, [BaseMigration], ["AddFieldData"]], ids=repr)
def test_a_list_of_something_else_is_a_check_error(operations):
    migration = type("Migration", (OperationsMigration,), {"operations": operations})("people", "0001_wrong")

    (message,) = checks.check_migration(migration)

    assert message.id == "massmigration.E005"


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (RemoveFieldData("people.Person", "nope"), r"has no column 'nope'; it has: age"),
        (CopyModelDataToNamespace("people.Person", "nowhere"), "'nowhere' is n"),
        (CopyModelDataToNamespace("people.Person", "itself"), "onto itself"),
    ],
    ids=["column", "namespace", "itself"],
)
def test_what_only_the_database_knows_is_told_at_launch(db_alias, monkeypatch, operation, words):
    if operation.deconstruct()[2].get("to_namespace") == "itself":
        operation.to_namespace = db_alias
    key = register(monkeypatch, migration_of(operation))

    with pytest.raises(BadMigrationFile, match=words):
        api.launch(key, db_alias)

    assert not MigrationRecord.objects.using(db_alias).exists()


def test_where_nothing_says_which_columns_there_are_none_is_emptied(db_alias, monkeypatch):
    def refuse(*args):
        raise NotImplementedError

    monkeypatch.setattr(connections[db_alias].introspection, "get_table_description", refuse)
    key = register(monkeypatch, migration_of(RemoveFieldData("people.Person", "nick")))

    with pytest.raises(BadMigrationFile, match=r"cannot be read\. Remove 'nick' with your own migration"):
        api.launch(key, db_alias)


def test_a_column_that_must_not_be_null_is_refused_at_launch(server_alias, monkeypatch):
    key = register(monkeypatch, migration_of(RemoveFieldData("people.Person", "old code")))
    connection = connections[server_alias]
    quoted = connection.ops.quote_name("old code")
    strict, back = (
        DATABASE_SERVERS[server_alias].nullable(quoted, "varchar(20)", is_null=is_null) for is_null in (False, True)
    )
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE people_person {strict}")
    try:
        with pytest.raises(BadMigrationFile, match="column 'old code' of table 'people_person' is NOT NULL"):
            api.launch(key, server_alias)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE people_person {back}")


def test_on_a_database_that_the_routers_do_not_give_it_it_is_refused(db_alias, monkeypatch, settings):
    class Router:
        def allow_migrate(self, alias, app_label, **hints):
            return False

    settings.DATABASE_ROUTERS = [Router()]
    key = register(monkeypatch, migration_of(DeleteModelData("people.Person")))

    with pytest.raises(BadMigrationFile, match=r"the database routers do not allow people\.Person on database"):
        api.launch(key, db_alias)


@pytest.fixture
def deleting(db_alias, monkeypatch, settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Person.objects.using(db_alias).create(name="Ann")
    return register(monkeypatch, migration_of(DeleteModelData("people.Person")))


def run(command, *arguments, answer, monkeypatch, **options):
    asked = []

    def answered(question):
        asked.append(question)
        return answer

    monkeypatch.setattr("builtins.input", answered)
    call_command(command, *arguments, stdout=io.StringIO(), stderr=io.StringIO(), **options)
    return asked


COMMANDS = {"massmigrate": ["massmigrate"], "massmigration": ["massmigration", "launch"]}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_ask_before_they_delete(db_alias, deleting, monkeypatch, command):
    with pytest.raises(CommandError, match="Nothing was changed"):
        run(*command, deleting, database=db_alias, answer="n", monkeypatch=monkeypatch)
    assert not MigrationRecord.objects.using(db_alias).exists()

    (question,) = run(*command, deleting, database=db_alias, answer="y", monkeypatch=monkeypatch)

    assert "It deletes all rows of people.Person, and the rows that refer to them." in question
    assert not Person.objects.using(db_alias).exists()


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_with_no_input_they_do_not_ask(db_alias, deleting, monkeypatch, command):
    asked = run(*command, deleting, database=db_alias, answer="n", monkeypatch=monkeypatch, interactive=False)

    assert asked == []
    assert not Person.objects.using(db_alias).exists()


def test_most_migrations_want_no_confirmation():
    assert migration_of(AddFieldData("people.Person", "age", 1))("people", "0001_x").confirmation == ""
    assert "launch" in VERBS
