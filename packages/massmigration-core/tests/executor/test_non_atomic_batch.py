import uuid

import pytest
from django.db import connections
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from massmigration import api
from massmigration.migrations import MapperMigration
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.concurrent_writers import elsewhere
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.models import Place
from testsupport.threads import PATIENCE

BATCH, ROWS = 10, 30


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


class Stepwise(MapperMigration):
    """Counts each place by itself, and has the engine write a note."""

    atomic = False
    batch_size = BATCH
    update_fields = ["note"]

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        self.first(db_alias)
        Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
        obj.note = "stale"

    def first(self, db_alias):
        if not hasattr(self, "has_begun"):
            self.has_begun = True
            self.disturb(db_alias)

    def disturb(self, db_alias):
        pass


class TakenOver(Stepwise):
    def disturb(self, db_alias):
        take_over(db_alias)


class Paused(Stepwise):
    def disturb(self, db_alias):
        api.pause(self.key, db_alias)


def make_places(db_alias):
    Place.objects.using(db_alias).bulk_create(Place(name=f"place {number}") for number in range(ROWS))


def take_over(db_alias):
    """Process the rest of the shard in two batches, as another worker does after this worker's lease has expired."""
    shard = ShardRecord.objects.using(db_alias).get()
    Place.objects.using(db_alias).update(note="theirs")
    ShardRecord.objects.using(db_alias).filter(pk=shard.pk).update(
        fence=F("fence") + 2, lease_token=uuid.uuid4(), cursor=shard.upper
    )


def notes(db_alias):
    return set(Place.objects.using(db_alias).values_list("note", flat=True))


def called(db_alias):
    return Place.objects.using(db_alias).filter(n=1).count()


def cursor_of(db_alias):
    shard = ShardRecord.objects.using(db_alias).get()
    return (shard.cursor == shard.upper, shard.processed, shard.is_done)


def test_without_a_transaction_a_worker_whose_shard_was_taken_writes_nothing(db_alias, monkeypatch):
    make_places(db_alias)
    key = register(monkeypatch, TakenOver)

    with CaptureQueriesContext(connections[db_alias]) as queries:
        record = launch(key, db_alias)

    assert notes(db_alias) == {"theirs"}
    assert cursor_of(db_alias) == (True, 0, False)
    assert record.status == Status.RUNNING
    # Not even in a transaction that is rolled back: it would wait for the rows that the new owner has locked.
    assert not [query["sql"] for query in queries if "UPDATE" in query["sql"] and "stale" in query["sql"]]


def test_without_a_transaction_a_checkpoint_that_the_server_rolled_back_unnoticed_writes_nothing(
    server_alias, monkeypatch
):
    make_places(server_alias)
    key = register(monkeypatch, Stepwise)
    rolled_back = []

    def roll_back(execute, sql, params, many, context):
        if not rolled_back and "UPDATE" in sql and "note" in sql:
            rolled_back.append(sql)
            connections[server_alias].connection.rollback()
            elsewhere(lambda: take_over(server_alias)).join(PATIENCE)
        return execute(sql, params, many, context)

    with connections[server_alias].execute_wrapper(roll_back):
        launch(key, server_alias)

    assert rolled_back
    assert notes(server_alias) == {"theirs"}
    assert cursor_of(server_alias) == (True, 0, False)


def test_without_a_transaction_a_worker_whose_shard_was_taken_calls_nothing_more(server_alias, monkeypatch):
    make_places(server_alias)
    key = register(monkeypatch, Stepwise)
    fences = []

    def before_the_second_batch(execute, sql, params, many, context):
        if "SET" in sql and "fence" in sql.partition("WHERE")[0]:
            fences.append(sql)
            if len(fences) == 3:  # the first batch has raised it at its beginning and in its checkpoint
                elsewhere(lambda: take_over(server_alias)).join(PATIENCE)
        return execute(sql, params, many, context)

    with connections[server_alias].execute_wrapper(before_the_second_batch):
        launch(key, server_alias)

    assert called(server_alias) == BATCH
    assert notes(server_alias) == {"theirs"}


def test_without_a_transaction_a_pause_holds_from_the_next_batch_on(db_alias, monkeypatch):
    make_places(db_alias)

    launch(register(monkeypatch, Paused), db_alias)

    assert called(db_alias) == BATCH
    assert cursor_of(db_alias) == (False, BATCH, False)
    assert MigrationRecord.objects.using(db_alias).get().status == Status.PAUSED


class FromElsewhere(MapperMigration):
    """Writes places of another database than that of its record."""

    atomic = False
    on_error = "continue"
    update_fields = ["n"]
    refused = ""

    def get_queryset(self, db_alias):
        return Place.objects.using("default")

    def operation(self, obj, db_alias):
        obj.n = "not a number" if obj.name == self.refused else 7


@pytest.mark.parametrize(("refused", "left"), [("", []), ("place 3", ["place 3"])], ids=["at once", "one by one"])
def test_objects_are_written_to_the_database_that_they_were_read_from(server_alias, monkeypatch, refused, left):
    make_places("default")
    make_places(server_alias)
    monkeypatch.setattr(FromElsewhere, "refused", refused)

    record = launch(register(monkeypatch, FromElsewhere), server_alias)

    assert record.status == (Status.FAILED if refused else Status.APPLIED)
    assert list(Place.objects.using("default").exclude(n=7).values_list("name", flat=True)) == left
    assert Place.objects.using(server_alias).filter(n=0).count() == ROWS
