"""`NotNow`: operations that ask to be called later."""

import datetime as dt

import pytest
from django.db import connections
from django.db.models import F

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import NotNow
from massmigration.loader import store
from massmigration.migrations import BaseMigration, MapperMigration, SimpleMigration
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from massmigration.worker import perform
from testsupport.inline_migrations import register
from testsupport.marks import only_sqlite
from testsupport.oracle import make_items, verbs
from testsupport.testapp.models import Item

DUMMY = "massmigration.backends.dummy.DummyBackend"
KEY = "testapp:9000_adhoc"
DELAY = dt.timedelta(minutes=7)
LONG_AGO = DatabaseNow(dt.timedelta(days=-1))


class Busy:
    """Raises `NotNow` for the item named `at`, as long as `is_busy`."""

    is_busy = True
    at = "Item 2"
    delay: dt.timedelta | None = DELAY

    def ask(self):
        if self.is_busy:
            raise NotNow("the printer is busy", delay=self.delay)


class ByObject(Busy, MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        if obj.name == self.at:
            self.ask()
        Item.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)


class WithoutTransaction(ByObject):
    atomic = False


class ByBatch(Busy, MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)
        self.ask()


class Once(Busy, SimpleMigration):
    def operation(self, db_alias):
        Item.objects.using(db_alias).update(n=F("n") + 1)
        self.ask()


class AfterCommit(Busy, MapperMigration):
    """Commits the batch before its end, through the driver."""

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)
        connections[db_alias].connection.commit()
        self.ask()


class OfQueryset(ByObject):
    at = ""

    def get_queryset(self, db_alias):
        self.ask()
        return super().get_queryset(db_alias)


class OfRemaining(ByObject):
    at = ""

    def remaining(self, db_alias):
        self.ask()
        return 0


class OfStages(Busy, BaseMigration):
    """Stands for a worker whose code does not fit the run."""

    def get_stages(self):
        self.ask()
        return [self.once(lambda db_alias: None)]


@pytest.fixture
def begin(db_alias, settings, monkeypatch):
    """Launch a migration on four items, and return it."""
    settings.MASSMIGRATION_BACKEND = DUMMY

    def begin(cls):
        key = register(monkeypatch, cls)
        make_items(db_alias, 4)
        migration = store.get(key)
        migration.is_busy = False
        api.launch(key, db_alias)
        migration.is_busy = True
        return migration

    return begin


def sent():
    return get_backend().sent


def step():
    """Perform the oldest job; return the delay of what it sends."""
    perform(sent().pop(0)[0])
    return sent()[-1][1] if sent() else None


def drain(db_alias):
    while sent():
        ShardRecord.objects.using(db_alias).update(throttled_until=LONG_AGO)
        perform(sent().pop(0)[0])


def record(db_alias):
    return MigrationRecord.objects.using(db_alias).get()


def counts(db_alias):
    return sorted(Item.objects.using(db_alias).values_list("n", flat=True))


@pytest.mark.parametrize("cls", [ByObject, ByBatch, Once])
def test_the_batch_is_rolled_back_and_its_job_sent_again_after_the_delay(db_alias, begin, monkeypatch, cls):
    monkeypatch.setattr("massmigration.backends.dummy.DummyBackend.supports_delay", True)
    migration = begin(cls)
    step()

    assert step() == DELAY

    assert counts(db_alias) == [0, 0, 0, 0]
    shard = ShardRecord.objects.using(db_alias).get()
    assert (shard.stalled_tries, shard.stalled_since, shard.failed, shard.lease_token) == (0, None, 0, None)
    assert shard.throttled_by == "the operation: the printer is busy"
    assert not FailedObject.objects.using(db_alias).exists()

    migration.is_busy = False
    drain(db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.APPLIED, [1, 1, 1, 1])
    assert "replay" not in verbs(db_alias)


def test_a_batch_that_has_committed_before_is_not_called_again(db_alias, begin):
    begin(AfterCommit)
    step()
    step()

    found = record(db_alias)
    assert (found.status, counts(db_alias)) == (Status.FAILED, [1, 1, 1, 1])
    assert found.last_error.startswith("DDLInBatch: ")


def test_without_a_transaction_the_objects_before_it_are_kept(db_alias, begin):
    migration = begin(WithoutTransaction)
    step()
    step()

    assert counts(db_alias) == [0, 0, 1, 1]

    migration.is_busy = False
    drain(db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.APPLIED, [1, 1, 1, 1])


def test_nobody_else_begins_before_the_delay_is_over(db_alias, begin):
    migration = begin(ByObject)
    step()
    duplicate = sent()[0][0]
    step()
    migration.is_busy = False

    perform(duplicate)

    assert counts(db_alias) == [0, 0, 0, 0]


@only_sqlite
def test_it_may_happen_more_often_than_a_batch_may_fail(db_alias, begin, settings):
    settings.MASSMIGRATION_MAX_STALLED_TRIES = 2
    migration = begin(ByObject)
    for _ in range(12):
        ShardRecord.objects.using(db_alias).update(throttled_until=LONG_AGO)
        step()

    assert record(db_alias).status == Status.RUNNING

    migration.is_busy = False
    drain(db_alias)

    assert record(db_alias).status == Status.APPLIED


@pytest.mark.parametrize("cls", [OfQueryset, OfRemaining, OfStages])
def test_a_plan_and_a_completion_check_can_be_put_off(db_alias, begin, monkeypatch, cls):
    monkeypatch.setattr("massmigration.backends.dummy.DummyBackend.supports_delay", True)
    migration = begin(cls)
    delays = [step() for _ in range(3)]

    assert DELAY in delays
    assert record(db_alias).status in (Status.QUEUED, Status.RUNNING)
    assert record(db_alias).stalled_tries == 0
    assert record(db_alias).stalled_error == "Waiting: the printer is busy"

    migration.is_busy = False
    drain(db_alias)

    assert (record(db_alias).status, record(db_alias).stalled_error) == (Status.APPLIED, "")


@only_sqlite
def test_a_pause_ends_it(db_alias, begin):
    begin(ByObject)
    step()
    step()
    api.pause(KEY, db_alias)
    drain(db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.PAUSED, [0, 0, 0, 0])


@only_sqlite
def test_without_a_delay_it_is_a_quarter_of_a_lease(db_alias, begin, monkeypatch, settings):
    monkeypatch.setattr("massmigration.backends.dummy.DummyBackend.supports_delay", True)
    migration = begin(ByObject)
    migration.delay = None
    step()

    assert step() == dt.timedelta(seconds=15)


@only_sqlite
def test_the_wait_and_its_reason_are_shown(db_alias, begin):
    begin(ByObject)
    step()
    step()

    assert "by the operation: the printer is busy" in api.status(KEY, db_alias).throttle


@pytest.mark.parametrize("delay", [5, dt.timedelta(seconds=-1), "1 s"])
def test_a_delay_is_a_timedelta(delay):
    with pytest.raises(ValueError, match="the delay must be a timedelta that is not negative, or None"):
        NotNow("no", delay=delay)
