import io
import threading

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections

from massmigration import api, progress
from massmigration.models import MigrationRecord
from massmigration.recorder import records
from testsupport.oracle import make_items
from testsupport.threads import PATIENCE
from testsupport.worker_processes import wait_until

DUMMY = "massmigration.backends.dummy.DummyBackend"
KEY = "testapp:0002_by_object"


def run(db_alias):
    """Run the command, and return its output on stdout and on stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    call_command("massmigrate", KEY, database=db_alias, stdout=stdout, stderr=stderr)
    return stdout.getvalue(), stderr.getvalue()


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_stop_by_somebody_else_ends_the_watching(db_alias, settings, verb):
    settings.MASSMIGRATION_BACKEND = DUMMY
    errors = []

    def watch():
        try:
            run(db_alias)
        except CommandError as error:
            errors.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=watch)
    thread.start()
    wait_until(lambda: records.get(db_alias, KEY))
    getattr(api, verb)(KEY, db_alias)
    thread.join(PATIENCE)

    assert errors[0].returncode == 4
    assert "by another user or process. To continue: manage.py massmigrate testapp 0002_by_object" in str(errors[0])


def test_a_record_that_is_forgotten_ends_the_watching(db_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DUMMY
    looks = []

    def read(key, alias):
        looks.append(key)
        if len(looks) == 3:
            MigrationRecord.objects.using(alias).filter(key=key).delete()
        return progress_read(key, alias)

    progress_read = progress.read
    monkeypatch.setattr(progress, "read", read)

    with pytest.raises(CommandError, match="no longer has a record on database"):
        run(db_alias)


def test_a_backend_that_has_not_recorded_the_launch_yet_is_said_so(db_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DUMMY
    monkeypatch.setattr(api, "launch", lambda key, alias: None)

    with pytest.raises(CommandError, match="handed to its backend, which has not recorded it yet"):
        run(db_alias)


def test_a_database_that_does_not_answer_for_a_moment_is_asked_again(db_alias, monkeypatch):
    make_items(db_alias, 10)
    read, errors = progress.read, [OperationalError("database is locked")]

    def read_or_raise(*arguments):
        if records.get(db_alias, KEY) and errors:
            raise errors.pop()
        return read(*arguments)

    monkeypatch.setattr(progress, "read", read_or_raise)

    stdout, stderr = run(db_alias)

    assert stdout.startswith(f"{KEY} applied: 10 rows in ")
    assert stderr == "The database cannot be read (database is locked); trying again.\n"


def test_one_that_is_launched_by_others_in_the_meantime_is_joined(db_alias, monkeypatch):
    make_items(db_alias, 10)
    launch = api.launch

    def launch_twice(key, alias):
        launch(key, alias)
        launch(key, alias)

    monkeypatch.setattr(api, "launch", launch_twice)

    assert run(db_alias)[0].startswith("testapp:0002_by_object applied")
