import datetime as dt

import pytest
from django.db import OperationalError, connections, transaction
from django.db.models import F

from massmigration import api
from massmigration.dialects import engine_transaction
from massmigration.exceptions import AlreadyLaunched, BatchInFlight
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder import records
from massmigration.states import Status
from massmigration.worker import perform
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.inline_migrations import register
from testsupport.oracle import calls, verbs
from testsupport.race import KEY, ONCE_EACH, Racing, new_race
from testsupport.testapp.models import Call
from testsupport.threads import PATIENCE, Gate, blocked_at_commit, blocked_at_statement, in_thread, wait_until_blocked

CHECKPOINT = r"SET .cursor. ="
BEGIN_BATCH = r"SET .fence. ="
RELEASE = r"SET .lease_token. = (NULL|%s), .lease_until. = (NULL|%s)"
MOVE_ON = r"UPDATE .massmigration_migrationrecord. SET .(is_planned|status). ="
INSERT_SHARDS = r"INSERT INTO .massmigration_shardrecord"


@pytest.fixture
def race(server_alias, settings):
    yield from new_race(server_alias, settings)


def perform_blocked(hold, race, pattern, gate, payload):
    with hold(race.db_alias, pattern, gate):
        perform(payload)


def test_the_second_of_two_launches_is_refused(race):
    with transaction.atomic(using=race.db_alias):
        race.launch()
        second = in_thread(race.launch)
        wait_until_blocked(race.db_alias)

    with pytest.raises(AlreadyLaunched):
        second.result(PATIENCE)
    assert verbs(race.db_alias) == ["launch"]
    assert len(race.sent) == 1


def test_a_launch_that_waited_for_one_that_rolls_back_is_not_refused(race):
    with transaction.atomic(using=race.db_alias):
        race.launch()
        second = in_thread(race.launch)
        wait_until_blocked(race.db_alias)
        transaction.set_rollback(True, using=race.db_alias)
    second.result(PATIENCE)
    race.drain()

    assert race.ending == ONCE_EACH


def test_the_second_of_two_plans_inserts_no_shards(race):
    gate = Gate()
    race.launch()
    payload = race.take()
    first = in_thread(perform_blocked, blocked_at_commit, race, INSERT_SHARDS, gate, payload)
    gate.await_arrivals()
    second = in_thread(perform, payload)
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
    worker = in_thread(perform_blocked, blocked_at_statement, race, MOVE_ON, gate, race.take())
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
    worker = in_thread(perform_blocked, blocked_at_statement, race, MOVE_ON, gate, payload)
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    gate.open()
    worker.result(PATIENCE)

    assert race.record.status == Status.CANCELLED


def test_a_retry_waits_for_the_batch_in_flight(race):
    gate = Gate()
    (payload,) = race.plan()
    worker = in_thread(perform_blocked, blocked_at_commit, race, CHECKPOINT, gate, payload)
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    retry = in_thread(api.retry, KEY, race.db_alias)
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
    worker = in_thread(perform_blocked, blocked_at_commit, race, CHECKPOINT, gate, payload)
    gate.await_arrivals()
    api.cancel(KEY, race.db_alias)
    before = MigrationRecord.objects.using(race.db_alias).values().get()

    with pytest.raises(BatchInFlight, match=":in-thread_"):
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
    worker = in_thread(perform_blocked, blocked_at_statement, race, BEGIN_BATCH, gate, payload)
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
    worker = in_thread(perform_blocked, blocked_at_statement, race, RELEASE, gate, payload)
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
    worker = in_thread(perform_blocked, blocked_at_statement, race, RELEASE, gate, payload)
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


def execute(db_alias, statements):
    with connections[db_alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def hold_shards_and_want_record(db_alias, gate):
    with transaction.atomic(using=db_alias):
        execute(db_alias, DATABASE_SERVERS[db_alias].survivor)
        ShardRecord.objects.using(db_alias).update(processed=F("processed"))
        Call.objects.using(db_alias).bulk_create(Call(migration="weight") for _ in range(500))
        gate.wait()
        MigrationRecord.objects.using(db_alias).update(total=F("total"))


def retry(db_alias):
    execute(db_alias, DATABASE_SERVERS[db_alias].patient_victim)
    api.retry(KEY, db_alias)


def test_a_verb_that_loses_a_deadlock_is_tried_again(race, settings):
    settings.MASSMIGRATION_LOCK_WAIT = dt.timedelta(seconds=PATIENCE)
    race.plan()
    api.cancel(KEY, race.db_alias)
    gate = Gate()
    holder = in_thread(hold_shards_and_want_record, race.db_alias, gate)
    gate.await_arrivals()

    verb = in_thread(retry, race.db_alias)
    wait_until_blocked(race.db_alias)
    gate.open()

    holder.result(PATIENCE)
    verb.result(PATIENCE)
    assert race.record.status == Status.RUNNING


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (1205, r"A batch of migration '{key}' on database '{db_alias}' has not ended yet \(worker: another process\)"),
        (1213, "was rolled back each time, because of other transactions"),
        (2013, "was lost before it had confirmed the change"),
    ],
    ids=["lock", "conflict", "lost"],
)
def test_a_refused_verb_says_what_kept_it(race, settings, monkeypatch, number, told):
    settings.MASSMIGRATION_LOCK_WAIT = dt.timedelta(milliseconds=1)
    race.launch()

    def refuse(*args, **kwargs):
        raise OperationalError(number, "No.")

    monkeypatch.setattr(records, "_move", refuse)
    with pytest.raises(BatchInFlight, match=told.format(key=KEY, db_alias=race.db_alias)) as raised:
        api.pause(KEY, race.db_alias)

    assert ("Nothing was changed" in str(raised.value)) == (number != 2013)


@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
@pytest.mark.parametrize("verb", [api.pause, api.cancel, api.resume])
def test_a_verb_that_sqlite_cannot_write_is_refused(db_alias, monkeypatch, verb):
    register(monkeypatch, Racing, "9001_racing")
    status = Status.PAUSED if verb is api.resume else Status.RUNNING
    MigrationRecord.objects.create(key=KEY, status=status)
    gate = Gate()

    def hold():
        with engine_transaction("default"):
            gate.wait()

    holder = in_thread(hold)
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
