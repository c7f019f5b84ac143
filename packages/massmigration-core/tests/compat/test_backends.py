"""Custom backends that were written for django-mass-migration."""

import datetime as dt
import sys
from types import ModuleType

import pytest

from massmigration import api, signals
from massmigration.backends import handler
from massmigration.backends.base import BackendBase
from massmigration.exceptions import BadBackend, InvalidTransition, MigrationAlreadyStarted
from massmigration.loader import store
from massmigration.migrations import BaseMigration, MapperMigration, SimpleMigration
from massmigration.models import Event, FailedObject, MigrationRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.oracle import make_items
from testsupport.testapp.models import Item

deferred = []
"""Calls that the backend has put off, as a task queue does."""


class Inline(BackendBase):
    def run_simple(self, migration, db_alias):
        deferred.append(lambda: migration.wrapped_operation(db_alias))

    def run_mapper(self, migration, db_alias):
        attempt_uuid = migration.mark_as_started(db_alias)
        for obj in migration.get_queryset(db_alias):
            migration.wrapped_operation(obj, attempt_uuid, db_alias)
        migration.mark_as_finished(db_alias)


class Duck:
    """A backend without a base class, as the predecessor allowed."""

    def run_twice(self, migration, db_alias):
        migration.mark_as_started(db_alias)
        for _ in range(migration.get_backend_params().get("times", 2)):
            migration.turn(db_alias)
        migration.mark_as_finished(db_alias)


class Mapper(MapperMigration):
    broken = ()

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias).order_by("pk")

    def operation(self, obj, db_alias):
        if obj.name in self.broken:
            raise ValueError("what is this?")
        obj.slug = obj.name.lower()
        obj.save(using=db_alias)


class Simple(SimpleMigration):
    error = None

    def operation(self, db_alias):
        if self.error:
            raise self.error
        Item.objects.using(db_alias).update(note="once")


class Twice(BaseMigration):
    backend = f"{__name__}.Duck"
    backend_method = "run_twice"

    def turn(self, db_alias):
        Item.objects.using(db_alias).create(name="turn")


@pytest.fixture(autouse=True)
def inline(settings, monkeypatch):
    # pytest imports tests by path; a backend is imported by name.
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or this_module())
    settings.MASSMIGRATION_BACKEND = f"{__name__}.Inline"
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"queue": "slow"}
    deferred.clear()


def this_module():
    module = ModuleType(__name__)
    vars(module).update(globals())
    return module


def work_off():
    while deferred:
        deferred.pop(0)()


def record_of(key, db_alias):
    return MigrationRecord.objects.using(db_alias).get(key=key)


def test_run_mapper_runs_a_mapper(db_alias, monkeypatch):
    make_items(db_alias, 3)

    record = launch(register(monkeypatch, Mapper), db_alias)

    assert (record.status, record.is_managed, record.launched_by) == (Status.APPLIED, False, "code:test")
    assert set(Item.objects.using(db_alias).values_list("slug", flat=True)) == {"item 0", "item 1", "item 2"}


def test_an_operation_that_raises_ends_the_attempt_and_is_never_applied(db_alias, monkeypatch):
    make_items(db_alias, 3)
    monkeypatch.setattr(Mapper, "broken", ("Item 1",))

    record = launch(register(monkeypatch, Mapper), db_alias)

    assert (record.status, record.last_error) == (Status.FAILED, "ValueError: what is this?")
    assert list(Item.objects.using(db_alias).order_by("pk").values_list("slug", flat=True)) == ["item 0", None, None]
    assert not FailedObject.objects.using(db_alias).exists()


def test_objects_of_another_attempt_are_skipped(db_alias, monkeypatch, caplog):
    make_items(db_alias, 1)
    key = register(monkeypatch, Mapper)
    migration = store.by_key[key]
    old = migration.mark_as_started(db_alias)
    api.cancel(key, db_alias)
    api.forget(key, db_alias)
    new = migration.mark_as_started(db_alias)
    item = Item.objects.using(db_alias).get()

    assert migration.wrapped_operation(item, old, db_alias) is False
    assert migration.wrapped_operation(item, str(new), db_alias) is True
    assert f"Attempt {old} of migration {key} has ended or was replaced: skipped object {item.pk}." in caplog.text


def test_run_simple_runs_a_simple_one_in_its_worker(db_alias, monkeypatch):
    make_items(db_alias, 2)
    key = register(monkeypatch, Simple)

    api.launch(key, db_alias)
    assert not MigrationRecord.objects.using(db_alias).exists()
    work_off()

    assert record_of(key, db_alias).status == Status.APPLIED
    assert set(Item.objects.using(db_alias).values_list("note", flat=True)) == {"once"}


def test_a_simple_one_that_raises_has_failed(db_alias, monkeypatch):
    monkeypatch.setattr(Simple, "error", LookupError("not there"))
    key = register(monkeypatch, Simple)

    api.launch(key, db_alias)
    work_off()

    record = record_of(key, db_alias)
    assert (record.has_error, record.last_error) == (True, "LookupError: not there")


def test_a_second_delivery_of_a_simple_one_is_refused(db_alias, monkeypatch):
    key = register(monkeypatch, Simple)
    api.launch(key, db_alias)
    again = deferred[0]
    work_off()

    with pytest.raises(MigrationAlreadyStarted):
        again()

    assert record_of(key, db_alias).status == Status.APPLIED


def test_a_method_of_its_own_is_called(db_alias, monkeypatch):
    monkeypatch.setattr(Twice, "backend_params", {"times": 3})

    record = launch(register(monkeypatch, Twice), db_alias)

    assert record.is_applied
    assert Item.objects.using(db_alias).filter(name="turn").count() == 3


def test_a_custom_backend_is_made_without_arguments():
    assert type(handler.get_backend()).__name__ == "Inline"


@pytest.mark.parametrize("path", [IMMEDIATE, f"{__name__}.Inline"], ids=["engine", "custom"])
def test_a_backend_without_the_method_is_refused(db_alias, monkeypatch, path):
    monkeypatch.setattr(Twice, "backend", path)
    key = register(monkeypatch, Twice)

    with pytest.raises(BadBackend, match=rf"{path.rpartition('.')[2]} has no method 'run_twice', which migration"):
        api.launch(key, db_alias)

    assert not MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("method", ["run_simple", "run_mapper"])
def test_the_base_says_what_is_missing(method):
    with pytest.raises(BadBackend, match=rf"BackendBase has no {method}\(\), which migration 'testapp:0099_it'"):
        getattr(BackendBase(), method)(Simple("testapp", "0099_it"), "default")


def test_pause_and_resume_are_refused_and_cancel_ends_it(db_alias, monkeypatch):
    key = register(monkeypatch, Mapper)
    attempt = store.by_key[key].mark_as_started(db_alias)

    with pytest.raises(InvalidTransition, match=r"or a custom backend runs it. You can cancel it"):
        api.pause(key, db_alias)
    api.cancel(key, db_alias)
    store.by_key[key].mark_as_finished(db_alias, attempt)

    assert record_of(key, db_alias).status == Status.CANCELLED


def test_a_running_one_is_not_launched_twice(db_alias, monkeypatch):
    key = register(monkeypatch, Mapper)
    store.by_key[key].mark_as_started(db_alias)

    with pytest.raises(MigrationAlreadyStarted, match=r"already running .* Watch it, or cancel it"):
        api.launch(key, db_alias)


@pytest.mark.parametrize("verb", ["retry", "restart"])
def test_retry_and_restart_launch_it_again(db_alias, monkeypatch, verb):
    make_items(db_alias, 2)
    monkeypatch.setattr(Mapper, "broken", ("Item 1",))
    key = register(monkeypatch, Mapper)
    first = launch(key, db_alias).attempt_id
    monkeypatch.setattr(Mapper, "broken", ())

    getattr(api, verb)(key, db_alias, actor="anna")

    record = record_of(key, db_alias)
    assert (record.status, record.launched_by) == (Status.APPLIED, "anna")
    assert record.attempt_id != first
    verbs = Event.objects.using(db_alias).values_list("verb", flat=True)
    assert list(verbs) == ["launch", "failed", verb, "launch", "applied"]


def test_a_retry_goes_to_the_engine_when_that_is_the_backend_now(db_alias, monkeypatch, settings):
    make_items(db_alias, 2)
    monkeypatch.setattr(Mapper, "broken", ("Item 1",))
    key = register(monkeypatch, Mapper)
    launch(key, db_alias)
    monkeypatch.setattr(Mapper, "broken", ())
    settings.MASSMIGRATION_BACKEND = IMMEDIATE

    api.retry(key, db_alias)

    record = record_of(key, db_alias)
    assert (record.status, record.is_managed) == (Status.APPLIED, True)


def test_healing_leaves_it_alone(db_alias, monkeypatch, settings):
    settings.MASSMIGRATION_LEASE = dt.timedelta(microseconds=1)
    store.by_key[register(monkeypatch, Mapper)].mark_as_started(db_alias)

    assert api.recover(db_alias) == 0


def test_jobs_that_another_backend_has_launched_go_on_with_that(db_alias, monkeypatch, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    key = register(monkeypatch, Mapper)
    launch(key, db_alias)
    settings.MASSMIGRATION_BACKEND = f"{__name__}.Inline"

    api.send(key, db_alias)

    assert len(handler.get_backend("massmigration.backends.dummy.DummyBackend").sent) == 1


def test_a_job_that_no_backend_can_carry_is_refused(monkeypatch):
    with pytest.raises(BadBackend, match="The backend Inline runs migrations by itself and cannot continue the jobs"):
        handler.backend_of_job(register(monkeypatch, Mapper), "")


def test_its_signals_are_sent(db_alias, monkeypatch):
    told = []
    receivers = [
        (signal, lambda sender, key, name=name, **details: told.append(name))
        for name, signal in vars(signals).items()
        if name.startswith("migration_")
    ]
    for signal, receiver in receivers:
        signal.connect(receiver)

    launch(register(monkeypatch, Mapper), db_alias)

    for signal, receiver in receivers:
        signal.disconnect(receiver)
    assert told == ["migration_launched", "migration_started", "migration_applied"]
