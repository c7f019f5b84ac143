import datetime as dt
import io
import logging
import re

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Value
from django.db.models.functions import Concat

from massmigration import api, checks
from massmigration.backends import handler
from massmigration.dialects.times import DatabaseNow
from massmigration.loader import store
from massmigration.management import progress_bar
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord
from testsupport.oracle import make_items
from testsupport.testapp.models import Item

DUMMY = "massmigration.backends.dummy.DummyBackend"
NAME = "0003_by_fields"
KEY = f"testapp:{NAME}"


class Marking(MapperMigration):
    """Writes its own name behind the note of every item."""

    bad_pks = ()
    is_plannable = True

    def get_queryset(self, db_alias):
        if not self.is_plannable:
            raise RuntimeError("no queryset today")
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        if obj.pk in self.bad_pks:
            raise RuntimeError("bad item")
        Item.objects.using(db_alias).filter(pk=obj.pk).update(note=Concat("note", Value(f" {self.name}")))


@pytest.fixture
def two(monkeypatch):
    """The only migrations; the first by name depends on the second."""
    first, second = Marking("testapp", "0001_late"), Marking("testapp", "0002_early")
    first.dependencies = [("testapp", "0002_early")]
    monkeypatch.setattr(store, "_by_key", {first.key: first, second.key: second})
    monkeypatch.setattr(store, "errors", {})
    return first, second


def run(*arguments, **options):
    """Run the command, and return its output on stdout and on stderr."""
    stdout, stderr = io.StringIO(), io.StringIO()
    call_command("massmigrate", *arguments, stdout=stdout, stderr=stderr, **options)
    return stdout.getvalue(), stderr.getvalue()


def rows_reported(stdout):
    """Return the line of an applied migration, without the time."""
    assert re.fullmatch(r".* in \d+ s\n", stdout)
    return stdout.rpartition(" in ")[0]


def notes(db_alias):
    return set(Item.objects.using(db_alias).values_list("note", flat=True))


def status_of(key, db_alias):
    return MigrationRecord.objects.using(db_alias).get(key=key).status


@pytest.mark.parametrize(
    "arguments",
    [("testapp", NAME), ("testapp", "0003"), (KEY,), ("testapp:0003",)],
    ids=["name", "prefix", "key", "prefix of a key"],
)
def test_a_named_migration_is_run_to_its_end_and_reported(db_alias, arguments, monkeypatch):
    monkeypatch.setattr(progress_bar, "PLAIN_INTERVAL", 3600)
    make_items(db_alias, 1200)

    stdout, stderr = run(*arguments, database=db_alias)

    assert rows_reported(stdout) == f"{KEY} applied: 1 200 rows"
    assert stderr == ""
    assert Item.objects.using(db_alias).exclude(slug=None).count() == 1200
    assert Event.objects.using(db_alias).get(verb="launch").actor.startswith("command:")


def test_what_is_done_once_is_reported_without_rows(db_alias):
    stdout, _ = run("testapp", "0001", database=db_alias)

    assert rows_reported(stdout) == "testapp:0001_once applied"


def test_an_applied_migration_has_nothing_to_do(db_alias):
    run(KEY, database=db_alias)

    assert run(KEY, database=db_alias) == (f"{KEY} is already applied; nothing to do.\n", "")


@pytest.mark.parametrize("arguments", [(), ("testapp",)], ids=["all", "of an app"])
def test_without_a_name_all_are_run_after_what_they_depend_on(db_alias, two, arguments):
    make_items(db_alias, 10)

    stdout, _ = run(*arguments, database=db_alias)

    assert [line.split()[0] for line in stdout.splitlines()] == ["testapp:0002_early", "testapp:0001_late"]
    assert notes(db_alias) == {" 0002_early 0001_late"}
    assert run(*arguments, database=db_alias) == ("No mass migrations to run.\n", "")


def test_a_dependency_that_is_not_applied_is_refused_in_the_words_of_the_api(db_alias, two):
    with pytest.raises(CommandError, match=r"it depends on 'testapp:0002_early' \(not run\)"):
        run("testapp:0001_late", database=db_alias)


def test_a_failure_is_told_and_the_next_migration_is_not_begun(db_alias, two):
    make_items(db_alias, 10)
    two[1].bad_pks = [Item.objects.using(db_alias).last().pk]

    with pytest.raises(CommandError, match=r"0002_early failed: RuntimeError: bad item \(object \d+\)") as raised:
        run(database=db_alias)

    assert raised.value.returncode == 3
    assert f"massmigrate testapp 0002_early --database {db_alias}" in str(raised.value)
    assert MigrationRecord.objects.using(db_alias).count() == 1


def test_a_failed_migration_is_retried_where_it_stopped(db_alias, two):
    make_items(db_alias, 10)
    two[1].bad_pks = [Item.objects.using(db_alias).last().pk]
    with pytest.raises(CommandError):
        run(database=db_alias)
    two[1].bad_pks = ()

    stdout, stderr = run("testapp", "0002", database=db_alias)

    assert rows_reported(stdout) == "testapp:0002_early applied: 10 rows, the last 1 of them"
    assert stderr == "testapp:0002_early had failed; continuing from where it stopped.\n"
    assert notes(db_alias) == {" 0002_early"}


def test_a_plan_that_fails_has_no_failed_objects(db_alias, two):
    two[1].is_plannable = False

    with pytest.raises(CommandError, match="no queryset today") as raised:
        run(database=db_alias)

    assert raised.value.returncode == 1


@pytest.mark.parametrize("kind", ["plan", "item", "exit"])
def test_without_logging_an_error_is_told_once_and_in_one_line(db_alias, two, monkeypatch, kind):
    def leave(obj, db_alias):
        raise SystemExit("bad item")

    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda logger: False)
    make_items(db_alias, 10)
    two[1].is_plannable = kind != "plan"
    two[1].bad_pks = list(Item.objects.using(db_alias).values_list("pk", flat=True)) if kind == "item" else ()
    if kind == "exit":
        two[1].operation = leave

    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError) as raised:
        call_command("massmigrate", database=db_alias, stdout=stdout, stderr=stderr)

    told = stdout.getvalue() + stderr.getvalue() + str(raised.value)
    assert told.count("no queryset today" if kind == "plan" else "bad item") == 1
    assert "Traceback" not in told


def test_a_warning_is_shown_where_logging_is_not_configured(db_alias, two, monkeypatch):
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda logger: False)
    monkeypatch.setattr(Marking, "get_queryset", lambda self, db_alias: Item.objects.order_by("name"))

    _, stderr = run("testapp:0002", database=db_alias)

    assert "Dropped the ordering of the queryset of migration testapp:0002_early" in stderr
    assert logging.getLogger("massmigration").handlers == []


def launch_elsewhere(settings, key, db_alias):
    """Launch on a queue that nobody reads."""
    settings.MASSMIGRATION_BACKEND = DUMMY
    api.launch(key, db_alias)
    del settings.MASSMIGRATION_BACKEND


def test_a_paused_migration_is_resumed(db_alias, two, settings):
    make_items(db_alias, 10)
    launch_elsewhere(settings, two[1].key, db_alias)
    api.pause(two[1].key, db_alias)

    stdout, stderr = run("testapp:0002", database=db_alias)

    assert stdout.startswith("testapp:0002_early applied: 10 rows")
    assert "was paused; continuing" in stderr


def test_a_cancelled_migration_is_run_only_when_it_is_named(db_alias, two, settings):
    make_items(db_alias, 10)
    two[0].dependencies = ()
    launch_elsewhere(settings, two[1].key, db_alias)
    api.cancel(two[1].key, db_alias)

    stdout, stderr = run(database=db_alias)

    assert stdout.startswith("testapp:0001_late applied")
    assert stderr == "testapp:0002_early was cancelled and is skipped. To run it, name it.\n"
    assert run("testapp:0002", database=db_alias)[0].startswith("testapp:0002_early applied")


def test_an_active_migration_is_joined(db_alias, two, settings):
    make_items(db_alias, 10)
    launch_elsewhere(settings, two[1].key, db_alias)

    stdout, stderr = run("testapp:0002", database=db_alias)

    assert stdout.startswith("testapp:0002_early applied: 10 rows")
    assert "is already queued; joining in." in stderr


def test_stages_follow_each_other(db_alias):
    make_items(db_alias, 10)

    stdout, _ = run("testapp:0005", database=db_alias)

    assert rows_reported(stdout) == "testapp:0005_two_stages applied: 10 rows"


def test_local_runs_here_what_has_another_backend(db_alias, two, settings):
    make_items(db_alias, 10)
    settings.MASSMIGRATION_BACKEND = DUMMY

    stdout, _ = run(database=db_alias, local=True)

    assert stdout.count("applied: 10 rows") == 2
    assert handler.get_backend().sent == []
    assert handler.backend_of(two[0]) is handler.get_backend()


def test_detach_launches_what_it_can_and_returns(db_alias, two, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY

    stdout, stderr = run(database=db_alias, detach=True)

    assert stdout == "testapp:0002_early launched; it runs in the workers of its backend.\n"
    assert "'testapp:0001_late' cannot be launched" in stderr
    assert len(handler.get_backend().sent) == 1


def test_detach_is_refused_where_jobs_would_end_with_the_command(db_alias):
    with pytest.raises(CommandError, match="--detach is not possible"):
        run(KEY, database=db_alias, detach=True)

    assert not MigrationRecord.objects.using(db_alias).exists()


def test_recover_sends_what_is_stuck_and_works_at_it(db_alias, two, settings):
    make_items(db_alias, 10)
    launch_elsewhere(settings, two[1].key, db_alias)
    MigrationRecord.objects.using(db_alias).update(next_send_at=DatabaseNow(-dt.timedelta(minutes=1)))

    stdout, _ = run(recover=True)

    assert f"Database '{db_alias}': sent 1 stuck job again.\n" in stdout
    # The command may say nothing more: the threads of this process may have ended before it looks.
    done = api.status(two[1].key, db_alias)
    assert (done.status, done.processed) == ("applied", 10)


def test_recover_leaves_the_work_to_the_workers_of_a_queue(db_alias, two, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    api.launch(two[1].key, db_alias)
    MigrationRecord.objects.using(db_alias).update(next_send_at=DatabaseNow(-dt.timedelta(minutes=1)))

    stdout, _ = run(recover=True, database=db_alias)

    assert stdout == f"Database '{db_alias}': sent 1 stuck job again.\n"
    assert len(handler.get_backend().sent) == 2


@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_sqlite_gets_one_process_with_a_notice(db_alias):
    _, stderr = run("testapp", "0001", workers=2)

    assert stderr == "testapp:0001_once runs in one process, because the database has one writer at a time.\n"


def test_workers_are_not_for_what_runs_elsewhere(db_alias, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY

    _, stderr = run("testapp", "0001", workers=2, detach=True, database=db_alias)

    assert stderr.startswith("testapp:0001_once runs in the workers of its backend; --workers is only for")


def test_workers_of_no_number_are_refused():
    with pytest.raises(CommandError, match="must be at least 1, not 0"):
        run("--workers=0")


@pytest.fixture
def by_name(two, monkeypatch):
    """Of the two migrations, let the first by name run only by its name."""
    monkeypatch.setattr(two[0], "runs_only_by_name", True, raising=False)
    return two[0]


def keys(stdout):
    return re.findall(r"testapp:\w+", stdout)


@pytest.mark.parametrize("arguments", [(), ("testapp",)], ids=["all", "app"])
def test_what_runs_only_by_name_is_passed_over_without_it(db_alias, by_name, arguments):
    plan, _ = run(*arguments, plan=True, database=db_alias)
    run(*arguments, database=db_alias)

    assert keys(plan) == ["testapp:0002_early"]
    assert list(MigrationRecord.objects.using(db_alias).values_list("key", flat=True)) == ["testapp:0002_early"]
    assert run(*arguments, check=True, database=db_alias)[0] == "No mass migrations to run.\n"
    assert run(*arguments, database=db_alias)[0] == "No mass migrations to run.\n"


def test_what_runs_only_by_name_is_run_and_planned_by_it(db_alias, by_name):
    run(database=db_alias)

    plan, _ = run("testapp", "0001_late", plan=True, database=db_alias)
    run("testapp", "0001_late", database=db_alias)

    assert keys(plan) == ["testapp:0001_late"]
    assert status_of(by_name.key, db_alias) == "applied"


def test_what_runs_only_by_name_is_not_resumed_retried_or_faked_without_it(db_alias, by_name):
    MigrationRecord.objects.using(db_alias).create(key=by_name.key, status="failed")

    run(database=db_alias)
    run(retry_failed=True, database=db_alias)
    run("testapp", fake=True, interactive=False, database=db_alias)

    assert status_of(by_name.key, db_alias) == "failed"


def test_the_check_lists_what_runs_only_by_name_if_code_requires_it(db_alias, by_name, monkeypatch, capsys):
    monkeypatch.setattr("massmigration.enforcement.registry.by_key", lambda: {by_name.key: ["view of the shop"]})
    run(database=db_alias)

    with pytest.raises(SystemExit):
        run(check=True, database=db_alias)


def test_the_deployment_check_lists_what_runs_only_by_name_if_code_requires_it(db_alias, by_name, monkeypatch):
    run(database=db_alias)

    assert checks.check_outstanding(databases=[db_alias]) == []

    monkeypatch.setattr("massmigration.enforcement.registry.by_key", lambda: {by_name.key: ["view of the shop"]})

    (message,) = checks.check_outstanding(databases=[db_alias])
    assert "'testapp:0001_late' has not been run" in message.msg
