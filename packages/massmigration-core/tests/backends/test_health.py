import contextlib

import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connections

from massmigration import api, worker
from massmigration.backends.base import BackendHealth
from massmigration.backends.dummy import DummyBackend
from massmigration.backends.local import LocalBackend
from massmigration.migrations import SimpleMigration
from massmigration.models import MigrationRecord
from testsupport.inline_migrations import register

KEY = "testapp:9000_adhoc"
HEALTH = BackendHealth(workers=3, queued=7, details={"scheduled": 2})


class Telling(DummyBackend):
    error = None

    def health(self):
        if self.error:
            raise self.error
        return HEALTH

    @contextlib.contextmanager
    def capture_sends(self):
        yield ["a task: shop.mail(1)"]


class Once(SimpleMigration):
    def operation(self, db_alias):
        pass


@pytest.fixture(autouse=True)
def telling(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = f"{__name__}.Telling"
    monkeypatch.setattr("massmigration.backends.handler.import_string", lambda path: Telling)
    monkeypatch.setattr(Telling, "error", None)
    register(monkeypatch, Once)


def test_a_backend_tells_how_it_is():
    assert api.backend_health(KEY) == HEALTH


def test_a_queue_that_does_not_answer_is_a_problem_to_read(monkeypatch):
    monkeypatch.setattr(Telling, "error", ConnectionRefusedError("no broker"))
    assert api.backend_health(KEY).problem == "The queue does not respond. ConnectionRefusedError: no broker"


def test_an_unknown_migration_is_a_problem_to_read():
    assert "testapp:nothing" in api.backend_health("testapp:nothing").problem


def test_the_local_backend_knows_its_threads():
    assert LocalBackend(workers=5).health().workers == 5


def test_what_a_dry_run_holds_back_is_told(db_alias, capsys):
    call_command("massmigrate", "testapp", "9000_adhoc", dry_run=1, database=db_alias)
    assert "Captured: a task: shop.mail(1)" in capsys.readouterr().out


def test_recovery_sends_what_is_stuck_on_every_database(db_alias):
    api.launch(KEY, db_alias)
    assert worker.recover() == 0
    MigrationRecord.objects.using(db_alias).update(next_send_at="2020-01-01T00:00Z")
    assert worker.recover() == 1


def test_recovery_passes_over_a_database_that_cannot_be_read(db_alias, caplog, monkeypatch):
    def take(db_alias):
        raise ProgrammingError("no such table")

    monkeypatch.setattr("massmigration.recorder.stuck.take_stuck_jobs", take)
    assert worker.recover() == 0
    assert caplog.text.count("Recovery skipped database") == len(list(connections))
