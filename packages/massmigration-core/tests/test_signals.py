import contextlib

import pytest

from massmigration import api, signals
from massmigration.loader import store
from testsupport.testapp.models import Item

KEY = "testapp:0003_by_fields"


@pytest.fixture
def told(settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.immediate.ImmediateBackend"
    heard = []
    names = [name for name in vars(signals) if name.startswith("migration_")]
    with contextlib.ExitStack() as stack:
        for name in names:
            signal = getattr(signals, name)

            def receive(signal, name=name, **details):
                del details["sender"]
                heard.append((name, details))

            signal.connect(receive, weak=False, dispatch_uid="test_signals")
            stack.callback(signal.disconnect, dispatch_uid="test_signals")
        yield heard


def test_a_run_is_told_from_launch_to_end(db_alias, told):
    Item.objects.using(db_alias).create(name="One")

    api.launch(KEY, db_alias, actor="ann")

    place = {"key": KEY, "db_alias": db_alias}
    assert told == [
        ("migration_launched", {**place, "actor": "ann"}),
        ("migration_started", place),
        ("migration_applied", place),
    ]


def test_a_failure_is_told_with_its_error(db_alias, told, monkeypatch):
    Item.objects.using(db_alias).create(name="One")
    monkeypatch.setattr("massmigration.executor.processors.ObjectProcessor.process", lambda *arguments: 1 / 0)

    api.launch(KEY, db_alias)

    name, details = told[-1]
    assert name == "migration_failed"
    assert details["error"].startswith("ZeroDivisionError: division by zero")


def test_a_migration_that_ends_with_failed_objects_is_told_with_their_number(db_alias, told, monkeypatch, caplog):
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(2))
    migration = store.get(KEY)
    monkeypatch.setattr(migration, "on_error", "continue")
    monkeypatch.setattr(migration, "operation", lambda obj, db_alias: 1 / int(obj.name))

    api.launch(KEY, db_alias)

    name, details = told[-1]
    assert (name, details["error"]) == ("migration_failed", "1 failed object")
    line = f"Migration {KEY} on database {db_alias} failed: 1 failed object"
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [line]


def test_what_an_operator_does_is_logged_when_it_is_committed(db_alias, settings, caplog):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    caplog.set_level("INFO", logger="massmigration")
    api.launch(KEY, db_alias, actor="ann")
    api.pause(KEY, db_alias, actor="ben")

    place = f"Migration {KEY} on database {db_alias}"
    lines = [f"{place}: launch by ann. It is queued.", f"{place}: pause by ben. It is paused."]
    assert [record.getMessage() for record in caplog.records] == lines


def test_progress_is_told_with_the_objects_since_the_last_time(db_alias, told, monkeypatch, settings):
    settings.MASSMIGRATION_BATCH_SIZE = 1
    monkeypatch.setattr("massmigration.executor.job.INTERVAL", 0)
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(3))

    api.launch(KEY, db_alias)

    assert sum(details["processed"] for name, details in told if name == "migration_progressed") == 3


def test_a_pause_is_told_with_its_actor(db_alias, told, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    api.launch(KEY, db_alias)

    api.pause(KEY, db_alias, actor="ben")

    assert told[-1] == ("migration_paused", {"key": KEY, "db_alias": db_alias, "actor": "ben"})


def test_a_receiver_that_raises_disturbs_nothing(db_alias, told, caplog):
    def explode(**details):
        raise ValueError("receiver")

    signals.migration_launched.connect(explode)
    try:
        api.launch(KEY, db_alias)
    finally:
        signals.migration_launched.disconnect(explode)

    assert [name for name, _ in told] == ["migration_launched", "migration_started", "migration_applied"]
    assert "raised" in caplog.text
