"""Stages that wait for an operator, from the plan to the end, at every edge."""

import datetime as dt
import io
import json
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F
from django.test import TestCase

from massmigration import api, dryrun
from massmigration.dialects.times import DatabaseNow
from massmigration.enforcement import requires_migration
from massmigration.exceptions import (
    AlreadyLaunched,
    BadMigrationFile,
    CannotDryRun,
    DependencyNotApplied,
    InvalidTransition,
    RequiredMigrationNotApplied,
)
from massmigration.jobs import JobKind
from massmigration.loader import store
from massmigration.migrations import BaseMigration, SimpleMigration, WaitStage
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.recorder import records
from massmigration.signals import migration_waiting
from massmigration.states import FINAL, Status
from massmigration.testing import run_migration
from massmigration.worker import perform
from testsupport.inline_migrations import IMMEDIATE, register
from testsupport.marks import only_sqlite
from testsupport.oracle import make_items, verbs
from testsupport.testapp.models import Item
from testsupport.threads import PATIENCE, Gate, blocked_at_statement, in_thread

DUMMY = "massmigration.backends.dummy.DummyBackend"
KEY = "testapp:9000_adhoc"
QUESTION = "Are the items good?"
ANOTHER = "Are the calls good?"
LONG_AGO = DatabaseNow(dt.timedelta(days=-1))


class Waiting(BaseMigration):
    """Counts every item, waits, and counts every item again."""

    def get_stages(self):
        return [self.stage(), self.wait(QUESTION), self.stage()]

    def stage(self):
        return self.mapped(get_queryset=self.get_queryset, operation_batch=self.count)

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def count(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)


class First(Waiting):
    def get_stages(self):
        return [self.wait(QUESTION), self.stage()]


class Last(Waiting):
    def get_stages(self):
        return [self.stage(), self.wait(QUESTION)]


class Twice(Waiting):
    def get_stages(self):
        return [self.wait(QUESTION), self.wait(ANOTHER), self.stage()]


class Alone(Waiting):
    def get_stages(self):
        return [self.wait(QUESTION)]


class Changed(Waiting):
    def get_stages(self):
        return [self.stage(), self.stage(), self.stage()]


@pytest.fixture
def immediate(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    register(monkeypatch, Waiting)


@pytest.fixture
def waiting(db_alias, immediate):
    """Return the record of a migration that waits; every item has been counted once."""
    make_items(db_alias, 3)
    api.launch(KEY, db_alias)
    return record(db_alias)


def record(db_alias, key=KEY):
    return MigrationRecord.objects.using(db_alias).get(key=key)


def counts(db_alias):
    return set(Item.objects.using(db_alias).values_list("n", flat=True))


def plan_job(found):
    return found.job(JobKind.PLAN).dumps()


def said(command, *arguments, **options):
    """Return what a command says on stdout and stderr, and its exit code."""
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        call_command(command, *arguments, stdout=stdout, stderr=stderr, **options)
    except CommandError as error:
        return stdout.getvalue(), f"{stderr.getvalue()}{error}", error.returncode
    except SystemExit as error:
        return stdout.getvalue(), stderr.getvalue(), error.code
    return stdout.getvalue(), stderr.getvalue(), 0


# The stage.


def test_the_stages_after_it_run_when_somebody_has_confirmed_its_question(db_alias, waiting):
    assert (waiting.status, waiting.stage, waiting.is_planned) == (Status.WAITING, 1, False)
    assert waiting.waiting_since is not None
    assert counts(db_alias) == {1}
    assert not ShardRecord.objects.using(db_alias).filter(stage=1).exists()

    api.proceed(KEY, db_alias, actor="ann")

    assert record(db_alias).status == Status.APPLIED
    assert record(db_alias).waiting_since is None
    assert counts(db_alias) == {2}
    assert verbs(db_alias) == [
        *("launch", "plan", "finish stage", "wait"),
        *("proceed", "finish stage", "plan", "applied"),
    ]


def test_the_history_tells_who_has_confirmed_which_question(db_alias, waiting):
    api.proceed(KEY, db_alias, actor="ann")

    wait = Event.objects.using(db_alias).get(verb="wait")
    proceed = Event.objects.using(db_alias).get(verb="proceed")
    assert (wait.from_status, wait.to_status, wait.detail) == ("running", "waiting", QUESTION)
    assert (proceed.from_status, proceed.to_status, proceed.detail) == ("waiting", "running", QUESTION)
    assert (wait.actor, proceed.actor) == ("", "ann")


@pytest.mark.parametrize(("migration", "before", "after"), [(First, {0}, {1}), (Last, {1}, {1}), (Alone, {0}, {0})])
def test_any_stage_can_wait(db_alias, immediate, monkeypatch, migration, before, after):
    register(monkeypatch, migration)
    make_items(db_alias, 3)

    api.launch(KEY, db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.WAITING, before)

    api.proceed(KEY, db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.APPLIED, after)


@only_sqlite
def test_two_stages_in_a_row_ask_one_after_the_other(db_alias, immediate, monkeypatch):
    register(monkeypatch, Twice)
    make_items(db_alias, 3)
    api.launch(KEY, db_alias)

    api.proceed(KEY, db_alias)

    assert (record(db_alias).status, record(db_alias).stage, counts(db_alias)) == (Status.WAITING, 1, {0})

    api.proceed(KEY, db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.APPLIED, {1})


# What is done meanwhile.


class Meanwhile(Waiting):
    """Renames every item while it waits."""

    def get_stages(self):
        return [self.stage(), self.wait(QUESTION, meanwhile=self.work)]

    def work(self, db_alias):
        Item.objects.using(db_alias).update(n=F("n") + 10)
        return dt.timedelta(hours=1)


class Raising(Meanwhile):
    def work(self, db_alias):
        super().work(db_alias)
        raise ValueError("Not now.")


@pytest.fixture
def working(db_alias, immediate, monkeypatch):
    """Return the record of a migration that waits, and does something meanwhile."""
    register(monkeypatch, Meanwhile)
    make_items(db_alias, 3)
    api.launch(KEY, db_alias)
    return record(db_alias)


def test_recovery_calls_what_is_done_meanwhile_when_it_is_due(db_alias, working):
    assert counts(db_alias) == {1}

    answers = [api.recover(db_alias), api.recover(db_alias)]

    assert (answers, counts(db_alias)) == ([1, 0], {11})
    MigrationRecord.objects.using(db_alias).update(next_send_at=LONG_AGO)
    assert (api.recover(db_alias), counts(db_alias)) == (1, {21})
    assert (record(db_alias).status, record(db_alias).send_count) == (Status.WAITING, 0)
    assert verbs(db_alias)[-1] != "applied"


def test_nothing_is_done_any_more_when_it_has_proceeded(db_alias, working):
    api.proceed(KEY, db_alias)

    perform(plan_job(working))

    assert (api.recover(db_alias), counts(db_alias)) == (0, {1})
    assert record(db_alias).status == Status.APPLIED


def test_a_job_of_another_attempt_does_nothing_meanwhile(db_alias, working):
    api.cancel(KEY, db_alias)
    api.retry(KEY, db_alias)

    perform(plan_job(working))

    assert counts(db_alias) == {1}
    assert record(db_alias).status == Status.WAITING


def test_an_error_meanwhile_is_logged_and_the_migration_waits(db_alias, immediate, monkeypatch, caplog):
    register(monkeypatch, Raising)
    make_items(db_alias, 3)
    api.launch(KEY, db_alias)

    api.recover(db_alias)

    assert (record(db_alias).status, record(db_alias).send_count, counts(db_alias)) == (Status.WAITING, 1, {11})
    assert "while it waits has failed. Recovery will call it again. Not now." in caplog.text
    assert api.recover(db_alias) == 0


def test_what_is_done_meanwhile_must_be_a_function():
    with pytest.raises(BadMigrationFile, match="waits with meanwhile = 3; it must be a function"):
        WaitStage(name="x:1", question=QUESTION, meanwhile=3)


@pytest.mark.parametrize("question", ["", " ", None, 3])
def test_a_question_must_be_a_text(question):
    with pytest.raises(BadMigrationFile, match=r"Migration 'x:1' has a stage that waits with question = "):
        WaitStage(name="x:1", question=question)


# Guards of the move to waiting.


@pytest.fixture
def unplanned(db_alias, settings, monkeypatch):
    """Return the job that plans a stage which waits."""
    settings.MASSMIGRATION_BACKEND = DUMMY
    register(monkeypatch, Alone)
    api.launch(KEY, db_alias)
    return record(db_alias).job(JobKind.PLAN)


def set_record(db_alias, **values):
    MigrationRecord.objects.using(db_alias).update(**values)


def test_a_record_moves_to_waiting(db_alias, unplanned):
    assert records.wait(unplanned, QUESTION)
    assert record(db_alias).status == Status.WAITING


@pytest.mark.parametrize(
    "values",
    [{"stage": 1}, {"is_planned": True}, {"attempt_id": uuid.UUID(int=1)}],
    ids=["stage", "planned", "attempt"],
)
def test_a_record_that_has_moved_on_does_not_wait(db_alias, unplanned, values):
    set_record(db_alias, **values)

    assert not records.wait(unplanned, QUESTION)
    assert record(db_alias).status == Status.QUEUED
    assert "wait" not in verbs(db_alias)


@pytest.mark.parametrize("status", [Status.WAITING, Status.PAUSED, *sorted(FINAL)])
def test_a_record_that_is_not_active_does_not_wait(db_alias, unplanned, status):
    set_record(db_alias, status=status)

    assert not records.wait(unplanned, QUESTION)
    assert record(db_alias).status == status


def test_a_second_job_does_not_make_it_wait_again(db_alias, waiting, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    set_record(db_alias, backend=DUMMY)
    duplicate = plan_job(waiting)
    api.proceed(KEY, db_alias)

    perform(duplicate)

    assert (record(db_alias).status, record(db_alias).stage) == (Status.RUNNING, 2)
    assert verbs(db_alias).count("wait") == 1


def test_a_pause_that_comes_first_wins(server_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DUMMY
    monkeypatch.setattr("massmigration.backends.worker._last", {})  # recovery runs first, in a transaction of its own
    register(monkeypatch, Alone)
    api.launch(KEY, server_alias)
    gate = Gate()

    def wait():
        with blocked_at_statement(server_alias, r"UPDATE .massmigration_migrationrecord. SET .status.", gate):
            perform(plan_job(record(server_alias)))

    thread = in_thread(wait)
    gate.await_arrivals()
    api.pause(KEY, server_alias)
    gate.open()
    thread.result(PATIENCE)

    assert record(server_alias).status == Status.PAUSED


# Guards of proceed.


def test_of_two_who_proceed_at_once_one_is_refused(server_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DUMMY
    register(monkeypatch, Twice)
    api.launch(KEY, server_alias)
    perform(plan_job(record(server_alias)))
    gate = Gate()

    def proceed():
        with blocked_at_statement(server_alias, r"UPDATE .massmigration_migrationrecord. SET .status.", gate):
            api.proceed(KEY, server_alias)

    threads = [in_thread(proceed), in_thread(proceed)]
    gate.await_arrivals(2)
    gate.open()
    errors = [thread.exception(PATIENCE) for thread in threads]

    assert errors.count(None) == 1
    assert [type(error) for error in errors if error] == [InvalidTransition]
    assert verbs(server_alias).count("proceed") == 1
    assert record(server_alias).stage == 0


@pytest.mark.parametrize(
    "values",
    [{"stage": 0}, {"attempt_id": uuid.UUID(int=1)}, {"status": Status.CANCELLED}],
    ids=["stage", "attempt", "status"],
)
def test_what_was_confirmed_is_one_question_of_one_attempt(db_alias, waiting, values):
    set_record(db_alias, **values)

    with pytest.raises(InvalidTransition):
        records.proceed(db_alias, waiting, QUESTION, actor="ann")

    assert not record(db_alias).is_planned
    assert "proceed" not in verbs(db_alias)


def test_a_question_that_is_not_asked_any_more_is_not_confirmed(db_alias, immediate, monkeypatch):
    register(monkeypatch, Twice)
    api.launch(KEY, db_alias)
    api.proceed(KEY, db_alias, stage=0)

    with pytest.raises(InvalidTransition, match="has reached another question than the one you confirmed"):
        api.proceed(KEY, db_alias, stage=0)

    assert (record(db_alias).status, record(db_alias).stage) == (Status.WAITING, 1)


@pytest.mark.parametrize("status", sorted({*Status} - {Status.WAITING}))
@only_sqlite
def test_only_what_waits_proceeds(db_alias, waiting, status):
    set_record(db_alias, status=status)

    with pytest.raises(InvalidTransition, match=f"its status is {status}; proceed requires the status waiting"):
        api.proceed(KEY, db_alias)


@only_sqlite
def test_it_does_not_proceed_with_a_stage_that_the_file_does_not_have_any_more(db_alias, waiting, monkeypatch):
    register(monkeypatch, Changed)

    with pytest.raises(InvalidTransition, match="its stage 1 does not wait for an operator"):
        api.proceed(KEY, db_alias)

    api.cancel(KEY, db_alias)
    api.retry(KEY, db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.APPLIED, {3})


# Recovery.


def test_recovery_sends_nothing_while_it_only_waits(db_alias, waiting, settings):
    assert waiting.next_send_at is None

    assert api.recover(db_alias) == 0
    assert record(db_alias).status == Status.WAITING


def test_recovery_continues_it_if_the_queue_has_lost_the_message(db_alias, waiting, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    set_record(db_alias, backend=DUMMY)
    api.proceed(KEY, db_alias)
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    set_record(db_alias, backend=IMMEDIATE, next_send_at=LONG_AGO)

    assert api.recover(db_alias) == 1

    assert (record(db_alias).status, counts(db_alias)) == (Status.APPLIED, {2})


def test_a_queue_that_does_not_answer_does_not_lose_the_confirmation(db_alias, waiting, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DUMMY
    set_record(db_alias, backend=DUMMY)

    def refuse(backend, payload, delay):
        raise ConnectionError("no broker")

    monkeypatch.setattr("massmigration.backends.dummy.DummyBackend.send", refuse)
    api.proceed(KEY, db_alias)

    assert "no broker" in api.not_sent(KEY, db_alias)
    assert (record(db_alias).status, record(db_alias).is_planned) == (Status.RUNNING, True)


# Other actions.


def test_a_retry_after_a_cancel_asks_again(db_alias, waiting):
    api.cancel(KEY, db_alias)

    assert (record(db_alias).status, record(db_alias).waiting_since) == (Status.CANCELLED, None)

    api.retry(KEY, db_alias)

    assert (record(db_alias).status, record(db_alias).stage, counts(db_alias)) == (Status.WAITING, 1, {1})

    api.proceed(KEY, db_alias)

    assert (record(db_alias).status, counts(db_alias)) == (Status.APPLIED, {2})


@pytest.mark.parametrize("action", ["pause", "resume", "retry", "restart"])
@only_sqlite
def test_it_refuses_what_makes_no_sense_while_it_waits(db_alias, waiting, action):
    with pytest.raises(InvalidTransition, match="its status is waiting"):
        getattr(api, action)(KEY, db_alias)


@only_sqlite
def test_a_launch_says_what_to_do_instead(db_alias, waiting):
    with pytest.raises(AlreadyLaunched, match=r"is already waiting on database 'default'\. Proceed with it instead"):
        api.launch(KEY, db_alias)


def test_it_can_be_faked(db_alias, waiting):
    api.fake(KEY, db_alias)

    assert (record(db_alias).status, record(db_alias).waiting_since) == (Status.APPLIED, None)


def test_it_can_be_forgotten(db_alias, waiting):
    api.forget(KEY, db_alias)

    assert not MigrationRecord.objects.using(db_alias).exists()
    assert not ShardRecord.objects.using(db_alias).exists()


@only_sqlite
def test_waiting_for_a_migration_ends_when_it_waits_for_an_operator(db_alias, waiting):
    assert api.wait(KEY, db_alias).status is Status.WAITING
    assert api.migration_is_in_progress(store.get(KEY), db_alias)
    assert not api.can_start_migration(store.get(KEY), db_alias)


@only_sqlite
def test_time_that_it_waits_is_not_elapsed(db_alias, waiting):
    set_record(db_alias, started_at=DatabaseNow(dt.timedelta(hours=-5)))
    Event.objects.using(db_alias).update(at=DatabaseNow(dt.timedelta(hours=-4)))

    assert api.status(KEY, db_alias).elapsed < dt.timedelta(hours=2)


@only_sqlite
def test_a_signal_tells_that_it_waits(db_alias, immediate):
    told = []

    def receive(key, db_alias, question, **kwargs):
        told.append((key, db_alias, question))

    migration_waiting.connect(receive)
    try:
        api.launch(KEY, db_alias)
    finally:
        migration_waiting.disconnect(receive)

    assert told == [(KEY, db_alias, QUESTION)]


@only_sqlite
def test_what_depends_on_it_cannot_be_launched(db_alias, waiting, monkeypatch):
    later = type("Migration", (Alone,), {"dependencies": [("testapp", "9000_adhoc")]})
    register(monkeypatch, later, "9001_later")

    with pytest.raises(DependencyNotApplied, match=r"depends on 'testapp:9000_adhoc' \(waiting\)"):
        api.launch("testapp:9001_later", db_alias)


@only_sqlite
def test_code_that_requires_it_says_what_to_do(db_alias, waiting):
    @requires_migration(KEY, db_alias, skip_in_tests=False)
    def code():
        raise AssertionError("it was called")

    with pytest.raises(RequiredMigrationNotApplied, match="massmigration proceed testapp 9000_adhoc"):
        code()


@only_sqlite
def test_a_dry_run_tries_the_first_stage_that_does_not_wait(db_alias, immediate, monkeypatch):
    register(monkeypatch, First)
    make_items(db_alias, 2)

    found = dryrun.dry_run(KEY, db_alias)

    assert [result.changes["n"] for result in found.objects] == [(0, 1), (0, 1)]


@only_sqlite
def test_there_is_no_dry_run_of_a_question(db_alias, immediate, monkeypatch):
    register(monkeypatch, Alone)

    with pytest.raises(CannotDryRun, match="has no stage that does anything"):
        dryrun.dry_run(KEY, db_alias)


class TestRunMigration(TestCase):
    def test_it_confirms_the_questions(self):
        with store.registered(Twice("testapp", "9000_adhoc")):
            assert run_migration(KEY).status == Status.APPLIED

        assert Event.objects.filter(verb="proceed", actor="code:test").count() == 2

    def test_it_can_stop_at_the_first(self):
        with store.registered(Twice("testapp", "9000_adhoc")):
            record = run_migration(KEY, proceed=False)

        assert (record.status, record.stage) == (Status.WAITING, 0)


# Commands.


@pytest.fixture
def only(monkeypatch, settings):
    """Make migrations the only ones there are."""
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.local.LocalBackend"

    def make(**classes):
        found = {f"testapp:{name}": cls("testapp", name) for name, cls in classes.items()}
        monkeypatch.setattr(store, "_by_key", found)
        monkeypatch.setattr(store, "errors", {})

    return make


class Independent(SimpleMigration):
    def operation(self, db_alias):
        pass


class Dependent(Independent):
    dependencies = [("testapp", "a_waiting")]


def test_the_command_says_the_question_and_runs_what_does_not_depend_on_it(db_alias, only):
    only(a_waiting=Waiting, b_dependent=Dependent, c_independent=Independent)
    make_items(db_alias, 2)

    stdout, stderr, code = said("massmigrate", database=db_alias)

    assert code == 4
    assert "testapp:c_independent applied" in stdout
    assert "testapp:b_dependent" in stderr
    assert f"testapp:a_waiting is waiting for an operator: {QUESTION}" in stderr
    assert f"manage.py massmigration proceed testapp a_waiting --database {db_alias}" in stderr
    assert {each.key: each.status for each in MigrationRecord.objects.using(db_alias).all()} == {
        "testapp:a_waiting": "waiting",
        "testapp:c_independent": "applied",
    }
    assert said("massmigrate", database=db_alias)[2] == 4


@only_sqlite
def test_a_command_that_only_launches_succeeds(db_alias, only, settings):
    only(a_waiting=Waiting)
    settings.MASSMIGRATION_BACKEND = DUMMY
    api.launch("testapp:a_waiting", db_alias)
    set_record(db_alias, status=Status.WAITING, stage=1)

    stdout, _, code = said("massmigrate", detach=True)

    assert code == 0
    assert QUESTION in stdout


@only_sqlite
def test_a_named_one_is_not_confirmed_by_massmigrate(db_alias, only):
    only(a_waiting=Waiting)
    said("massmigrate")

    _, stderr, code = said("massmigrate", "testapp", "a_waiting")

    assert (code, record(db_alias, "testapp:a_waiting").status) == (4, Status.WAITING)
    assert QUESTION in stderr


@only_sqlite
def test_the_plan_and_the_check_list_it(db_alias, only):
    only(a_waiting=Waiting)
    said("massmigrate")

    stdout, _, code = said("massmigrate", plan=True, check=True)

    assert code == 1
    assert "testapp:a_waiting  waiting for an operator; would be skipped" in stdout


def test_the_command_proceed_asks_the_question_and_runs_the_rest(db_alias, only, monkeypatch):
    only(a_waiting=Waiting)
    make_items(db_alias, 2)
    said("massmigrate", database=db_alias)
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")

    stdout, _, code = said("massmigration", "proceed", "testapp", "a_waiting", database=db_alias)

    assert QUESTION in asked[0]
    assert (code, counts(db_alias)) == (0, {2})
    assert "testapp:a_waiting applied" in stdout


@only_sqlite
def test_the_command_proceed_does_nothing_without_a_yes(db_alias, only, monkeypatch):
    only(a_waiting=Waiting)
    said("massmigrate")
    monkeypatch.setattr("builtins.input", lambda text: "n")

    _, stderr, code = said("massmigration", "proceed", "testapp", "a_waiting")

    assert (stderr, code) == ("Nothing was changed.", 1)
    assert record(db_alias, "testapp:a_waiting").status == Status.WAITING


@only_sqlite
def test_the_command_confirms_the_question_that_it_has_asked(db_alias, only, monkeypatch):
    only(a_twice=Twice)
    said("massmigrate")

    def answer(text):
        with monkeypatch.context() as patch:
            patch.setattr(store.get("testapp:a_twice"), "backend", IMMEDIATE)
            api.proceed("testapp:a_twice", db_alias)  # another operator is faster
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    _, stderr, code = said("massmigration", "proceed", "testapp", "a_twice")

    assert code == 1
    assert "has reached another question" in stderr
    assert record(db_alias, "testapp:a_twice").stage == 1


@only_sqlite
def test_the_commands_show_the_question(db_alias, only):
    only(a_waiting=Waiting)
    said("massmigrate")

    text = said("showmassmigrations")[0]
    (entry,) = json.loads(said("showmassmigrations", format="json")[0])
    status = said("massmigration", "status", "testapp", "a_waiting")[0]

    assert f"[?] a_waiting  waiting, stage 2, {QUESTION}" in text
    assert "to continue: manage.py massmigration proceed testapp a_waiting" in text
    assert (entry["status"], entry["question"]) == ("waiting", QUESTION)
    assert entry["waiting_since"] is not None
    assert "waiting since" in status


class Shrinking(Last):
    """Names every item whose name is empty."""

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias).filter(name="")

    def count(self, queryset, db_alias):
        queryset.update(name="named")


@only_sqlite
def test_a_question_is_nothing_to_verify(db_alias, only):
    only(a_shrinking=Shrinking)
    Item.objects.create(name="")
    said("massmigrate")
    said("massmigration", "proceed", "testapp", "a_shrinking", interactive=False)

    assert "testapp:a_shrinking  applied, nothing remains" in said("massmigrate", verify=True)[0]

    Item.objects.create(name="")

    assert "1 new row needs it" in said("massmigrate", verify=True)[0]
