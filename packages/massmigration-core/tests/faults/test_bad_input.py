"""Mistakes around a migration: each has a clear message, and nothing is lost."""

import io

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.models import F

from massmigration import api
from massmigration.backends.dummy import DummyBackend
from massmigration.backends.handler import get_backend
from massmigration.backends.immediate import ImmediateBackend
from massmigration.backends.worker import perform_with
from massmigration.exceptions import (
    AlreadyLaunched,
    BadBackend,
    BadMigrationFile,
    DatabaseNotAllowed,
    DependencyNotApplied,
    MigrationNotFound,
    RecordsUnreadable,
)
from massmigration.executor.batch_size import AdaptiveBatchSize
from massmigration.loader import store
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry
from testsupport.testapp.keyed import Ticket, table
from testsupport.testapp.models import Place

ROWS = 7


class Counting(MapperMigration):
    batch_size = 3

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)


class Refusing(DummyBackend):
    """A backend whose queue is down."""

    is_down = True

    def send(self, payload, delay):
        if self.is_down:
            raise ConnectionError("no broker at this address")
        super().send(payload, delay)


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def places(db_alias):
    Place.objects.using(db_alias).bulk_create(Place(name="place") for _ in range(ROWS))


def counts(db_alias):
    return list(Place.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def state(db_alias):
    """Return the records' statuses and the number of rows that were counted."""
    records = MigrationRecord.objects.using(db_alias).order_by("key")
    return [str(status) for status in records.values_list("status", flat=True)], sum(counts(db_alias))


def variant(**attributes):
    return type("Migration", (Counting,), attributes)


def said(command, *arguments):
    """Run a command that must be refused, and return its message."""
    stderr = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(command, *arguments, stdout=io.StringIO(), stderr=stderr)
    return stderr.getvalue() + str(caught.value)


REFUSED = {
    "unknown": (None, MigrationNotFound, "found no file massmigrations/9000_adhoc.py in app 'testapp'"),
    "alias": ({"allowed_db_aliases": []}, DatabaseNotAllowed, "is not allowed on database"),
    "dependency": (
        {"dependencies": [("testapp", "0001_once")]},
        DependencyNotApplied,
        "it depends on 'testapp:0001_once' (not run), which must be applied first",
    ),
    "backend": ({"backend": "nowhere.Backend"}, BadBackend, "'nowhere.Backend' cannot be imported"),
    "backend-method": ({"backend_method": "run_own"}, BadBackend, "has no method 'run_own'"),
    "field": (
        {"operation_batch": MapperMigration.operation_batch, "operation": lambda *a: 0, "update_fields": ["nane"]},
        BadMigrationFile,
        "names 'nane', which testapp.Place does not have; it has: id, n, name, note. Did you mean 'name'?",
    ),
    "signature": (
        {"operation_batch": lambda self, queryset: None},
        BadMigrationFile,
        "is called with (queryset, db_alias), but takes (queryset). Define it as operation_batch(self, queryset, db_al",
    ),
    "queryset-signature": (
        {"get_queryset": lambda self: None},
        BadMigrationFile,
        "is called with (db_alias), but takes (). Define it as get_queryset(self, db_alias).",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_launch_is_refused_with_the_reason(db_alias, places, monkeypatch, kind):
    attributes, error, reason = REFUSED[kind]
    if attributes is not None:
        register(monkeypatch, variant(**attributes))

    with pytest.raises(error) as caught:
        launch("testapp:9000_adhoc", db_alias)

    assert reason in str(caught.value)
    assert state(db_alias) == ([], 0)
    assert not Event.objects.using(db_alias).exists()


def test_one_that_is_running_is_not_launched_again(db_alias, places, monkeypatch, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    first = launch(register(monkeypatch, Counting), db_alias)

    with pytest.raises(AlreadyLaunched, match=r"is already queued on database .* Watch it, or pause it\."):
        launch(first.key, db_alias)

    assert MigrationRecord.objects.using(db_alias).get().attempt_id == first.attempt_id
    assert len(get_backend().sent) == 1


def test_without_the_tables_of_records_it_is_said_to_migrate(db_alias, monkeypatch):
    key = register(monkeypatch, Counting)
    monkeypatch.setattr(MigrationRecord._meta, "db_table", "massmigration_absent")

    with pytest.raises(RecordsUnreadable, match=f"Run: manage.py migrate --database {db_alias}$"):
        api.launch(key, db_alias)
    assert "Traceback" not in said("massmigrate", "testapp", "9000_adhoc", "--database", db_alias)


def test_what_a_backend_cannot_send_is_told_and_sent_later(db_alias, places, monkeypatch, settings):
    settings.MASSMIGRATION_BACKEND = f"{__name__}.Refusing"
    key = register(monkeypatch, Counting)

    record = launch(key, db_alias)

    event = Event.objects.using(db_alias).get(verb="not sent")
    assert (record.status, event.detail) == (Status.QUEUED, "ConnectionError: no broker at this address")
    monkeypatch.setattr(Refusing, "is_down", False)
    api.send(key, db_alias)
    ((payload, _),) = get_backend().sent
    perform_with(payload, ImmediateBackend())
    assert state(db_alias) == (["applied"], ROWS)


def test_a_record_outlives_its_file(db_alias, places, monkeypatch, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    key = register(monkeypatch, Counting)
    launch(key, db_alias)
    ((payload, _),) = get_backend().sent
    monkeypatch.delitem(store.by_key, key)

    perform_with(payload, get_backend())

    assert state(db_alias) == (["queued"], 0)
    shown = io.StringIO()
    call_command("showmassmigrations", "testapp", "--database", db_alias, stdout=shown)
    assert "9000_adhoc  queued, its file is missing" in shown.getvalue()
    api.cancel(key, db_alias)
    with pytest.raises(MigrationNotFound, match=r"massmigrations/9000_adhoc\.py"):
        api.retry(key, db_alias)
    api.forget(key, db_alias)
    assert state(db_alias) == ([], 0)


@pytest.mark.parametrize(("wanted", "status", "done"), [("event", "applied", ROWS), ("pause", "paused", 0)])
def test_code_that_changes_while_it_runs_leaves_an_event(db_alias, places, monkeypatch, settings, wanted, status, done):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    key = register(monkeypatch, variant(on_code_change=wanted))
    launch(key, db_alias)
    ((payload, _),) = get_backend().sent
    monkeypatch.setattr(store.get(key), "source_hash", "another")

    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    perform_with(payload, get_backend())

    assert state(db_alias) == ([status], done)
    assert Event.objects.using(db_alias).filter(key=key, verb="code changed").count() == 1


def test_an_empty_queryset_is_applied_at_once(db_alias, monkeypatch):
    record = launch(register(monkeypatch, Counting), db_alias)

    assert (record.status, record.total, ShardRecord.objects.using(db_alias).count()) == (Status.APPLIED, 0, 0)


def test_a_model_without_a_table_fails_and_can_be_retried(db_alias, monkeypatch):
    key = register(monkeypatch, variant(get_queryset=lambda self, db_alias: Ticket.objects.all()))

    record = launch(key, db_alias)

    assert (record.status, "testapp_ticket" in record.last_error) == (Status.FAILED, True)
    assert not ShardRecord.objects.using(db_alias).exists()
    with table(Ticket, db_alias):
        Ticket.objects.using(db_alias).create(code="a", number=1, amount=1)
        assert retry(key, db_alias).status == Status.APPLIED
        assert Ticket.objects.using(db_alias).get().n == 1


def test_a_record_that_is_deleted_by_hand_ends_the_run_at_the_next_batch(db_alias, places, monkeypatch):
    def delete(pace):
        with connections[db_alias].cursor() as cursor:
            cursor.execute("DELETE FROM massmigration_migrationrecord")
            cursor.execute("UPDATE massmigration_shardrecord SET failed = 1")

    key = register(monkeypatch, Counting)
    with monkeypatch.context() as patch:
        patch.setattr(AdaptiveBatchSize, "yield_write_lock", delete)
        api.launch(key, db_alias)

    assert state(db_alias) == ([], 3)
    assert launch(key, db_alias).status == Status.APPLIED  # rows of the old run do not prevent it
    assert counts(db_alias) == [2] * 3 + [1] * (ROWS - 3)
    assert not FailedObject.objects.using(db_alias).exists()


def test_a_backend_that_runs_migrations_by_itself_lacks_a_method(db_alias, monkeypatch):
    key = register(monkeypatch, type("Migration", (SimpleMigration,), {"operation": lambda *a: None}))
    monkeypatch.setattr(type(store.get(key)), "backend_method", "run_own", raising=False)

    text = said("massmigrate", "testapp", "9000_adhoc", "--local", "--database", db_alias)

    assert "has no method 'run_own', which migration 'testapp:9000_adhoc' names as its backend_method" in text
    assert state(db_alias) == ([], 0)
