import pytest

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.backends.worker import perform_with
from massmigration.loader import store
from massmigration.migrations import SimpleMigration
from massmigration.models import Event, MigrationRecord
from massmigration.states import Status
from testsupport.inline_migrations import register
from testsupport.testapp.models import Item

KEY = "testapp:0002_by_object"


@pytest.fixture
def launched(db_alias, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    Item.objects.using(db_alias).create(name="One")
    api.launch(KEY, db_alias)
    return get_backend()


def changes(db_alias):
    return Event.objects.using(db_alias).filter(verb="code changed").count()


def run(backend):
    while backend.sent:
        perform_with(backend.sent.pop(0)[0], backend)


def test_the_same_file_is_no_change(db_alias, launched):
    run(launched)

    assert changes(db_alias) == 0


def test_another_file_leaves_one_event_and_goes_on(db_alias, launched, monkeypatch):
    monkeypatch.setattr(store.get(KEY), "source_hash", "another")

    run(launched)

    assert changes(db_alias) == 1
    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED


class Derived(SimpleMigration):
    """What it does depends on more than its file."""

    version = "1"

    @property
    def source_hash(self):
        return f"of package {self.version}"

    def operation(self, db_alias):
        pass


def test_a_migration_can_tell_itself_what_its_code_is(db_alias, launched, monkeypatch):
    key = register(monkeypatch, Derived)
    api.launch(key, db_alias)
    monkeypatch.setattr(Derived, "version", "2")

    run(launched)

    assert Event.objects.using(db_alias).get(verb="code changed").key == key
    record = MigrationRecord.objects.using(db_alias).get(key=key)
    assert (record.source_hash, record.running_hash) == ("of package 1", "of package 2")


def test_another_file_pauses_when_the_migration_wants_it(db_alias, launched, monkeypatch):
    monkeypatch.setattr(store.get(KEY), "source_hash", "another")
    monkeypatch.setattr(store.get(KEY), "on_code_change", "pause")

    run(launched)

    record = MigrationRecord.objects.using(db_alias).get()
    assert (record.status, Item.objects.using(db_alias).get().n) == (Status.PAUSED, 0)
    assert Event.objects.using(db_alias).last().actor == "code: the file has changed"


def test_a_resume_accepts_the_other_file(db_alias, launched, monkeypatch):
    monkeypatch.setattr(store.get(KEY), "source_hash", "another")
    monkeypatch.setattr(store.get(KEY), "on_code_change", "pause")
    run(launched)

    api.resume(KEY, db_alias)
    run(launched)

    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED
    assert changes(db_alias) == 1
