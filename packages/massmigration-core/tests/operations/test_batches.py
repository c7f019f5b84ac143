"""The cost of batches and shards of one statement, besides the statement."""

import pytest
from django.db import connections
from django.db.models.functions import Upper
from django.test.utils import CaptureQueriesContext

from massmigration.dialects import dialect_of
from massmigration.models import ShardRecord
from massmigration.operations import (
    AddFieldData,
    CopyFieldData,
    DeleteModelData,
    MapFunctionOnObjects,
    OperationsMigration,
    RemoveFieldData,
)
from massmigration.paging import sharding
from testsupport import oracle
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.operations_app.models import Person

ROWS = 40
FILLED = AddFieldData("people.Person", "age", 7)
EMPTIED = RemoveFieldData("people.Person", "favourite_colour")
COPIED = CopyFieldData("people.Person", "name", "nick")
CALLED = MapFunctionOnObjects("people.Person", lambda person: setattr(person, "age", 7), update_fields=["age"])


@pytest.fixture(autouse=True)
def limits(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 10


def run(monkeypatch, db_alias, operation, **attributes):
    Person.objects.using(db_alias).bulk_create(Person(name=f"P {index}") for index in range(ROWS))
    migration = type("Migration", (OperationsMigration,), {"operations": [operation], **attributes})
    with CaptureQueriesContext(connections[db_alias]) as queries:
        record = launch(register(monkeypatch, migration), db_alias)
    assert record.status == "applied", record.last_error
    assert oracle.tally(db_alias) == (ROWS, 0, 0)
    return [query["sql"] for query in queries]


def checkpoints(queries):
    found = [sql for sql in queries if sql.startswith("UPDATE") and "massmigration_shardrecord" in sql]
    return [sql for sql in found if "cursor" in sql.partition("WHERE")[0]]


def by_keys(queries):
    """Return the updates of rows by keys that were read first, to find out whether the rows stay in the queryset."""
    return [sql for sql in queries if sql.startswith("UPDATE") and "people_person" in sql and " IN (" in sql]


@pytest.mark.parametrize("operation", [COPIED, CALLED], ids=["statement", "objects"])
def test_a_batch_that_reaches_the_end_of_its_shard_is_the_last(db_alias, monkeypatch, operation):
    queries = run(monkeypatch, db_alias, operation, batch_size=ROWS // 2)

    assert len(checkpoints(queries)) == 2


@pytest.mark.parametrize("operation", [COPIED, CALLED], ids=["statement", "objects"])
def test_batches_begin_small(db_alias, monkeypatch, operation):
    queries = run(monkeypatch, db_alias, operation)

    assert len(checkpoints(queries)) > 1


@pytest.mark.parametrize("operation", [FILLED, EMPTIED], ids=["fill", "empty"])
def test_what_is_known_to_leave_the_queryset_is_not_looked_for(db_alias, monkeypatch, operation):
    queries = run(monkeypatch, db_alias, operation)

    assert by_keys(queries) == []


def test_what_may_stay_in_the_queryset_is_looked_for(db_alias, monkeypatch):
    queries = run(monkeypatch, db_alias, AddFieldData("people.Person", "nick", Upper("nick")))

    assert by_keys(queries) != []


@pytest.mark.parametrize(("operation", "shards"), [(COPIED, 2), (CALLED, 8)], ids=["statement", "objects"])
def test_shards_of_one_statement_hold_a_few_of_the_largest_batches(
    server_alias, monkeypatch, settings, operation, shards
):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    monkeypatch.setattr(type(dialect_of(server_alias)), "estimated_table_rows", lambda self, model: ROWS)
    settings.MASSMIGRATION_MAX_SET_SIZE = 5
    settings.MASSMIGRATION_SHARDS = 8

    run(monkeypatch, server_alias, operation)

    assert ShardRecord.objects.using(server_alias).count() == shards


def test_without_an_estimate_there_are_as_many_shards_as_usual(server_alias, monkeypatch, settings):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    monkeypatch.setattr(type(dialect_of(server_alias)), "estimated_table_rows", lambda self, model: None)
    settings.MASSMIGRATION_MAX_SET_SIZE = 10
    settings.MASSMIGRATION_SHARDS = 8

    run(monkeypatch, server_alias, COPIED)

    assert ShardRecord.objects.using(server_alias).count() == 8


@pytest.mark.parametrize(
    ("model", "expected"), [("testapp.Call", True), ("testapp.Place", False)], ids=["alone", "not"]
)
def test_deleting_is_one_statement_where_nothing_refers_to_the_rows_and_nobody_listens(model, expected):
    migration = type("Migration", (OperationsMigration,), {"operations": [DeleteModelData(model)]})("testapp", "9000_x")

    (stage,) = migration.get_stages()

    assert stage.is_statement is expected
