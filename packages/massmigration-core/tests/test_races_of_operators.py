import datetime as dt

import pytest
from django.db import connections, transaction

from massmigration import api
from massmigration.exceptions import AlreadyLaunched, BatchInFlight
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration.transactions import engine_transaction
from massmigration.worker import perform
from testsupport import races
from testsupport.oracle import calls, verbs
from testsupport.races import KEY, ONCE_EACH
from testsupport.threads import PATIENCE, Gate, aside, held_at_commit, held_at_statement, wait_until_blocked

CHECKPOINT = r"SET .cursor. ="
BEGIN_BATCH = r"SET .fence. ="
RELEASE = r"SET .lease_token. = (NULL|%s), .lease_until. = (NULL|%s)"
MOVE_ON = r"UPDATE .massmigration_migrationrecord. SET .(is_planned|status). ="
INSERT_SHARDS = r"INSERT INTO .massmigration_shardrecord"


@pytest.fixture
def race(server_alias, settings):
    yield from races.race(server_alias, settings)


def perform_held(hold, race, pattern, gate, payload):
    with hold(race.db_alias, pattern, gate):
        perform(payload)


def test_the_second_of_two_launches_is_refused(race):
    with transaction.atomic(using=race.db_alias):
        race.launch()
        second = aside(race.launch)
        wait_until_blocked(race.db_alias)

    with pytest.raises(AlreadyLaunched):
        second.result(PATIENCE)
    assert verbs(race.db_alias) == ["launch"]
    assert len(race.sent) == 1


def test_a_launch_that_waited_for_one_that_rolls_back_is_not_refused(race):
    with transaction.atomic(using=race.db_alias):
        race.launch()
        second = aside(race.launch)
        wait_until_blocked(race.db_alias)
        transaction.set_rollback(True, using=race.db_alias)
    second.result(PATIENCE)
    race.drain()

    assert race.ending == ONCE_EACH


def test_the_second_of_two_plans_inserts_no_shards(race):
    gate = Gate()
    race.launch()
    payload = race.take()
    first = aside(perform_held, held_at_commit, race, INSERT_SHARDS, gate, payload)
    gate.await_arrivals()
    second = aside(perform, payload)
    wait_until_blocked(race.db_alias)
    gate.open()
    first.result(PATIENCE)
    second.result(PATIENCE)

    assert race.shards.count() == 1
    assert verbs(race.db_alias) == ["launch", "plan"]

    race.drain()

    assert race.ending == ONCE_EACH


def test_a_plan_does_not_undo_a_cancel(race):
    gate = Gate()
    race.launch()
    worker = aside(perform_held, held_at_statement, race, MOVE_ON, gate, race.take())
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    gate.open()
    worker.result(PATIENCE)

    assert race.record.status == Status.CANCELLED
    assert not race.record.is_planned
    assert race.shards.count() == 0


def test_a_look_does_not_undo_a_cancel(race):
    gate = Gate()
    (payload,) = race.plan()
    worker = aside(perform_held, held_at_statement, race, MOVE_ON, gate, payload)
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    gate.open()
    worker.result(PATIENCE)

    assert race.record.status == Status.CANCELLED


def test_a_retry_waits_for_the_batch_in_flight(race):
    gate = Gate()
    (payload,) = race.plan()
    worker = aside(perform_held, held_at_commit, race, CHECKPOINT, gate, payload)
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    retry = aside(api.retry, KEY, race.db_alias)
    wait_until_blocked(race.db_alias)
    gate.open()
    worker.result(PATIENCE)
    retry.result(PATIENCE)

    assert len(calls(race.db_alias)) == 3

    race.drain()

    assert race.ending == ONCE_EACH


def test_a_retry_that_waited_too_long_names_the_worker_and_changes_nothing(race, settings):
    settings.MASSMIGRATION_LOCK_WAIT = dt.timedelta(milliseconds=100)
    gate = Gate()
    (payload,) = race.plan()
    worker = aside(perform_held, held_at_commit, race, CHECKPOINT, gate, payload)
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    before = MigrationRecord.objects.using(race.db_alias).values().get()

    with pytest.raises(BatchInFlight, match=":aside_"):
        api.retry(KEY, race.db_alias)

    assert MigrationRecord.objects.using(race.db_alias).values().get() == before

    gate.open()
    worker.result(PATIENCE)
    api.retry(KEY, race.db_alias)
    race.drain()

    assert race.ending == ONCE_EACH


def test_a_worker_whose_attempt_is_replaced_between_two_batches_commits_nothing(race):
    gate = Gate()
    (payload,) = race.plan()
    worker = aside(perform_held, held_at_statement, race, BEGIN_BATCH, gate, payload)
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    api.retry(KEY, race.db_alias)
    gate.open()
    worker.result(PATIENCE)

    assert calls(race.db_alias) == []

    race.drain()

    assert race.ending == ONCE_EACH


def test_a_resume_while_a_job_is_stopping_needs_no_message(race):
    gate = Gate()
    (payload,) = race.plan()
    api.pause(KEY, race.db_alias)
    worker = aside(perform_held, held_at_statement, race, RELEASE, gate, payload)
    gate.await_arrivals()
    api.resume(KEY, race.db_alias)
    race.sent.clear()
    gate.open()
    worker.result(PATIENCE)

    assert race.ending == ONCE_EACH


def test_a_resume_while_a_job_is_stopping_may_send_as_well(race):
    gate = Gate()
    (payload,) = race.plan()
    api.pause(KEY, race.db_alias)
    worker = aside(perform_held, held_at_statement, race, RELEASE, gate, payload)
    gate.await_arrivals()
    api.resume(KEY, race.db_alias)
    perform(race.take())
    perform(race.take())
    gate.open()
    worker.result(PATIENCE)
    race.drain()

    assert race.ending == ONCE_EACH


def test_a_pause_before_the_first_batch_stops_the_job(race):
    (payload,) = race.plan()
    api.pause(KEY, race.db_alias)

    perform(payload)

    assert race.sent == []
    assert calls(race.db_alias) == []
    assert race.record.status == Status.PAUSED


@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
@pytest.mark.parametrize("verb", [api.pause, api.cancel, api.resume])
def test_a_verb_that_sqlite_cannot_write_is_refused(db_alias, verb):
    status = Status.PAUSED if verb is api.resume else Status.RUNNING
    MigrationRecord.objects.create(key=KEY, status=status)
    gate = Gate()

    def hold():
        with engine_transaction("default"):
            gate.wait()

    holder = aside(hold)
    gate.await_arrivals()
    with connections["default"].cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 50")
    try:
        with pytest.raises(BatchInFlight, match="Nothing was changed; try again in a moment"):
            verb(KEY)
    finally:
        connections["default"].close()
        gate.open()
        holder.result(PATIENCE)

    assert MigrationRecord.objects.get().status == status
