import datetime as dt
import io
import re

import pytest
from django.core.management import CommandError, call_command

from massmigration import api
from massmigration.dialects.times import DatabaseNow
from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, MigrationRecord
from massmigration.states import Status
from testsupport.inline_migrations import register
from testsupport.oracle import make_items
from testsupport.testapp.models import Item

KEY = "testapp:9000_adhoc"
DUMMY = "massmigration.backends.dummy.DummyBackend"


class Migration(MapperMigration):
    on_error = "continue"
    bad_pks = ()
    update_fields = ["n"]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.n += 1
        if obj.pk in type(self).bad_pks:
            raise ValueError("bad item")


@pytest.fixture(autouse=True)
def migration(monkeypatch):
    monkeypatch.setattr(Migration, "bad_pks", ())
    register(monkeypatch, Migration)


def run(*arguments, **options):
    """Run the command, and return its output on stdout."""
    stdout = io.StringIO()
    call_command("massmigration", *arguments, stdout=stdout, stderr=io.StringIO(), **options)
    return stdout.getvalue()


def counts(db_alias):
    return sorted(Item.objects.using(db_alias).values_list("n", flat=True))


def fail(db_alias, monkeypatch):
    """Run it with a bad item, the last of three."""
    make_items(db_alias, 3)
    monkeypatch.setattr(Migration, "bad_pks", [Item.objects.using(db_alias).order_by("pk").last().pk])
    with pytest.raises(CommandError):
        run("launch", KEY, database=db_alias)
    monkeypatch.setattr(Migration, "bad_pks", ())


def test_what_runs_in_this_process_is_run_to_its_end(db_alias):
    make_items(db_alias, 3)

    assert run("launch", "testapp", "9000", database=db_alias).startswith(f"{KEY} applied: 3 rows in ")

    assert counts(db_alias) == [1, 1, 1]


def test_a_paused_migration_is_resumed_in_the_foreground(db_alias, settings):
    make_items(db_alias, 3)
    settings.MASSMIGRATION_BACKEND = DUMMY
    api.launch(KEY, db_alias)
    del settings.MASSMIGRATION_BACKEND

    assert run("pause", KEY, database=db_alias) == f"{KEY} paused.\n"
    assert run("resume", KEY, database=db_alias).startswith(f"{KEY} applied: 3 rows")


def test_a_retry_does_only_what_failed(db_alias, monkeypatch):
    fail(db_alias, monkeypatch)

    run("retry", KEY, database=db_alias)

    assert counts(db_alias) == [1, 1, 1]


def test_a_restart_does_everything_again(db_alias, monkeypatch):
    fail(db_alias, monkeypatch)

    run("restart", KEY, database=db_alias, interactive=False)

    assert counts(db_alias) == [1, 2, 2]


def test_what_runs_elsewhere_is_left_to_its_workers(db_alias, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY

    assert run("launch", KEY, database=db_alias) == f"{KEY} launched; it runs in the workers of its backend.\n"

    assert MigrationRecord.objects.using(db_alias).get().status == Status.QUEUED


@pytest.mark.parametrize("verb", ["restart", "fake", "forget"])
@pytest.mark.parametrize("answer", ["", "n", "no"])
def test_a_verb_that_cannot_be_taken_back_is_asked_about(db_alias, monkeypatch, verb, answer):
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.FAILED)
    monkeypatch.setattr("builtins.input", lambda question: answer)

    with pytest.raises(CommandError, match="Nothing was changed"):
        run(verb, KEY, database=db_alias)

    assert MigrationRecord.objects.using(db_alias).get().status == Status.FAILED


def test_a_yes_is_enough(db_alias, monkeypatch):
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.FAILED)
    monkeypatch.setattr("builtins.input", lambda question: "y")

    assert run("forget", KEY, database=db_alias) == f"{KEY} forgotten.\n"


def test_without_anybody_to_ask_nothing_is_changed(db_alias, monkeypatch):
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.FAILED)
    monkeypatch.setattr("sys.stdin", io.StringIO())

    with pytest.raises(CommandError, match="Use --no-input to confirm"):
        run("forget", KEY, database=db_alias)

    assert MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("key", ["testapp:0001_gone", "removed:0001_gone"], ids=["file", "app"])
def test_what_has_no_file_any_more_can_be_forgotten(db_alias, key):
    MigrationRecord.objects.using(db_alias).create(key=key, status=Status.APPLIED)

    assert run("forget", key, database=db_alias, interactive=False) == f"{key} forgotten.\n"

    assert not MigrationRecord.objects.using(db_alias).exists()


def test_an_unknown_app_has_an_exit_code_of_its_own(db_alias):
    with pytest.raises(CommandError, match="No installed app with label 'nope'") as raised:
        run("pause", "nope", "0001", database=db_alias)

    assert raised.value.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pause",), "Name one migration"),
        (("pause", "testapp"), "Name one migration"),
        (("pause", "testapp", "8"), "Cannot find a migration matching '8' from app 'testapp'"),
        (("recover", "testapp"), "omit 'testapp'"),
        (("stop", "testapp"), "Found the action 'stop'; allowed: launch, pause, .* Name one migration"),
    ],
    ids=["nothing", "app alone", "unknown name", "recover with an app", "unknown verb"],
)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_what_makes_no_sense_is_refused(db_alias, arguments, message):
    with pytest.raises(CommandError, match=message):
        run(*arguments)


def test_heal_sends_what_is_stuck_and_works_at_it(db_alias, settings):
    make_items(db_alias, 3)
    settings.MASSMIGRATION_BACKEND = DUMMY
    api.launch(KEY, db_alias)
    del settings.MASSMIGRATION_BACKEND
    MigrationRecord.objects.using(db_alias).update(next_send_at=DatabaseNow(-dt.timedelta(minutes=1)))

    told = run("recover", database=db_alias)

    assert told.startswith(f"Database '{db_alias}': sent 1 stuck job again.\n{KEY} applied: 3 rows")


def test_status_tells_of_shards_failed_objects_and_events(db_alias, monkeypatch):
    fail(db_alias, monkeypatch)
    pk = FailedObject.objects.using(db_alias).get().object_pk[0]

    told = run("status", KEY, database=db_alias)

    assert f"[!] {KEY} on database '{db_alias}'  99.9%, 3/3 rows, 1 failed, 1 failed object\n" in told
    assert re.search(r"\nshards: (\d) of \1 done\n", told)
    assert f"failed objects: 1\n    {pk}: ValueError: bad item\n" in told
    assert " launch by command:" in told
    assert " failed (running -> failed): 1 failed object\n" in told


def test_status_of_what_was_never_launched_is_its_mark(db_alias):
    assert run("status", KEY, database=db_alias) == f"[ ] {KEY} on database '{db_alias}'\n"
