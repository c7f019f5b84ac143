"""Mistakes in a migration's own code: each has a clear message, and nothing is lost."""

import copy
import signal
import sys

import pytest
from django.db.models import F

from massmigration import api
from massmigration.exceptions import BadMigrationFile
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry, unresolved
from testsupport.testapp.models import Place
from testsupport.threads import PATIENCE

ROWS = 7


class Counting(MapperMigration):
    """Counts each object, but does something bad for the bad one."""

    batch_size = 3

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
        return self.misbehave(obj, db_alias) if obj.name == "bad" else None

    def misbehave(self, obj, db_alias):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def bad(db_alias):
    """The fifth of seven places."""
    names = ["bad" if number == 4 else "good" for number in range(ROWS)]
    Place.objects.using(db_alias).bulk_create(Place(name=name) for name in names)
    return Place.objects.using(db_alias).get(name="bad")


def counting(misbehave, **attributes):
    return type("Migration", (Counting,), {"misbehave": misbehave, **attributes})


def counts(db_alias):
    return list(Place.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def leave(self, obj, db_alias):
    sys.exit("no more")


def interrupt(self, obj, db_alias):
    raise KeyboardInterrupt


def change_key(self, obj, db_alias):
    obj.pk += 1000
    obj.save(using=db_alias)


def change_key_only(self, obj, db_alias):
    """Change only the key. With `update_fields`, the engine would write the note to the row that has that key."""
    obj.pk -= 1
    obj.note = "of another row"


async def wait(db_alias):
    raise AssertionError


def half(self, obj, db_alias):
    return wait(db_alias)


def walk(self, obj, db_alias):
    return (number for number in range(3))


MISBEHAVIOUR = {
    "exit": (leave, {}, "raised SystemExit('no more',), which would have ended its worker"),
    "changed-key": (change_key, {}, "The operation changed the primary key of its object from"),
    "changed-key-and-field": (change_key_only, {"update_fields": ["note"]}, "changed the primary key of its object"),
    "coroutine": (half, {}, "operation() returned a coroutine, so none of its code was executed"),
    "generator": (walk, {}, "operation() returned a generator, so none of its code was executed"),
}


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_it_fails_at_its_object_and_goes_on_when_mended(db_alias, bad, monkeypatch, kind):
    misbehave, attributes, reason = MISBEHAVIOUR[kind]
    key = register(monkeypatch, counting(misbehave, **attributes))

    record = launch(key, db_alias)

    assert (record.status, reason in record.last_error) == (Status.FAILED, True)
    assert (unresolved(db_alias).object_pk, counts(db_alias)) == ([bad.pk], [1] * 4 + [0] * 3)
    assert not Place.objects.using(db_alias).exclude(note="").exists()
    Place.objects.using(db_alias).update(name="good")
    assert retry(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * ROWS


@pytest.mark.parametrize("misbehave", [leave, interrupt], ids=["exit", "keyboard-interrupt"])
def test_the_threads_of_a_worker_outlive_it(db_alias, bad, monkeypatch, settings, misbehave):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.local.LocalBackend"
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"workers": 1}
    key = register(monkeypatch, counting(misbehave))

    api.launch(key, db_alias)
    found = api.wait(key, db_alias, timeout=PATIENCE, interval=0.02)
    Place.objects.using(db_alias).update(name="good")
    api.retry(key, db_alias)
    again = api.wait(key, db_alias, timeout=PATIENCE, interval=0.02)

    assert (found.status, "which would have ended its worker" in found.last_error) == (Status.FAILED, True)
    assert (again.status, counts(db_alias)) == (Status.APPLIED, [1] * ROWS)


def stopped(self, obj, db_alias):
    signal.raise_signal(signal.SIGUSR2)


@pytest.mark.parametrize(
    ("misbehave", "error"), [(interrupt, KeyboardInterrupt), (stopped, SystemExit)], ids=["ctrl-c", "shutdown"]
)
def test_a_worker_that_is_told_to_end_does_and_nothing_has_failed(db_alias, bad, monkeypatch, misbehave, error):
    def shut_down(number, frame):
        sys.exit(1)

    previous = signal.signal(signal.SIGUSR2, shut_down)
    key = register(monkeypatch, counting(misbehave))

    with pytest.raises(error):
        api.launch(key, db_alias)
    signal.signal(signal.SIGUSR2, previous)

    assert MigrationRecord.objects.using(db_alias).get().status == Status.RUNNING
    assert not FailedObject.objects.using(db_alias).exists()
    assert ShardRecord.objects.using(db_alias).get().lease_token is None  # free for the next worker
    Place.objects.using(db_alias).update(name="good")
    api.send(key, db_alias)
    assert counts(db_alias) == [1] * ROWS


def test_a_copy_may_have_another_key(db_alias, bad, monkeypatch):
    def clone(self, obj, db_alias):
        twin = copy.copy(obj)
        twin._state = copy.copy(obj._state)
        twin.pk, twin.name = None, "twin"
        twin.save(using=db_alias, force_insert=True)

    assert launch(register(monkeypatch, counting(clone)), db_alias).status == Status.APPLIED
    assert Place.objects.using(db_alias).filter(name="twin").count() == 1


def test_a_deleted_object_is_no_changed_key(db_alias, bad, monkeypatch):
    key = register(monkeypatch, counting(lambda self, obj, db_alias: obj.delete() and None))

    assert launch(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * (ROWS - 1)


def test_any_other_answer_is_ignored(db_alias, bad, monkeypatch):
    assert launch(register(monkeypatch, counting(lambda self, obj, db_alias: obj)), db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * ROWS


async def asynchronous(self, db_alias):
    raise AssertionError


def generating(self, db_alias):
    yield db_alias


@pytest.mark.parametrize("operation", [asynchronous, generating], ids=["async", "generator"])
def test_an_operation_that_a_call_would_not_run_is_refused(db_alias, monkeypatch, operation):
    key = register(monkeypatch, type("Migration", (SimpleMigration,), {"operation": operation}))

    with pytest.raises(BadMigrationFile, match="asynchronous or contains yield, so a call would execute none"):
        launch(key, db_alias)

    assert not MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_a_simple_migration_that_exits_has_failed(db_alias, monkeypatch, atomic):
    key = register(
        monkeypatch, type("Migration", (SimpleMigration,), {"atomic": atomic, "operation": lambda *a: sys.exit(3)})
    )

    record = launch(key, db_alias)

    assert (record.status, "raised SystemExit(3,)" in record.last_error) == (Status.FAILED, True)
