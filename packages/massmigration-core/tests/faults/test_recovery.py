import datetime as dt
import signal
import threading
import time
import uuid
from collections import Counter

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction

from massmigration import api
from massmigration.backends import handler, worker
from massmigration.backends.dummy import DummyBackend
from massmigration.backends.worker import perform_with
from massmigration.conf import settings as conf
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.recorder import shards as recorder
from testsupport import oracle
from testsupport.testapp.models import Call
from testsupport.threads import PATIENCE
from testsupport.worker_processes import Fleet

pytestmark = pytest.mark.slow

KEY = "testapp:0005_two_stages"
ROWS = 60

# Where a worker dies, and what is committed then:
# status, stage, whether that is planned, rows, whether shards are left.
GAPS = [
    ("shard jobs not sent", ("running", 0, True, 0, True)),
    ("claimed", ("running", 0, True, 0, True)),
    ("checkpoint not written", ("running", 0, True, 0, True)),
    ("checkpoint not committed", ("running", 0, True, 0, True)),
    ("batch committed", ("running", 0, True, 10, True)),
    ("continuation not sent", ("running", 0, True, 10, True)),
    ("last shard done", ("running", 0, True, 60, False)),
    ("next plan not sent", ("running", 1, False, 60, False)),
    ("next shard jobs not sent", ("running", 1, True, 60, True)),
    ("last stage done", ("running", 1, True, 60, False)),
]
GAPS_BETWEEN_SHARDS = [
    ("second shard job not sent", ("running", 0, True, 0, True)),
    ("first shard done", ("running", 0, True, 40, True)),
]


def by_name(gaps):
    return {"argvalues": gaps, "ids": [name.replace(" ", "-") for name, _ in gaps]}


def made_fleet(db_alias):
    oracle.make_items(db_alias, ROWS)
    # One batch per job, and one thread: the shards take turns. The lease is too long for recovery to act.
    return Fleet(db_alias, LEASE=10, BATCH_SIZE=10, MAX_BATCH_SIZE=10, MAX_SET_SIZE=10, JOB_DURATION=0, SHARDS=3)


@pytest.fixture
def fleet(db_alias):
    with made_fleet(db_alias) as fleet:
        yield fleet


@pytest.fixture
def server_fleet(server_alias):
    with made_fleet(server_alias) as fleet:
        yield fleet


def standing(db_alias):
    record = MigrationRecord.objects.using(db_alias).get()
    has_shards_left = ShardRecord.objects.using(db_alias).filter(is_done=False).exists()
    return record.status, record.stage, record.is_planned, oracle.rows_counted(db_alias), has_shards_left


def assert_recovered(fleet, *verbs):
    """Assert that a worker that only runs recovery finishes the run, with each row processed once."""
    fleet.expire_leases()
    fleet.start()
    fleet.wait_until_applied()
    assert oracle.counts(fleet.db_alias) == [1]
    assert Call.objects.using(fleet.db_alias).count() == 1
    assert oracle.tally(fleet.db_alias) == (ROWS + 1, 0, 0)
    assert oracle.verbs(fleet.db_alias) == ["launch", *verbs, "finish stage", "plan", "applied"]


@pytest.mark.parametrize(("gap", "committed"), **by_name(GAPS))
def test_a_worker_killed_between_a_commit_and_the_send_after_it_is_healed(fleet, gap, committed):
    victim = fleet.start(fleet.launch(KEY), die_at=gap)
    assert victim.wait() == -signal.SIGKILL
    assert standing(fleet.db_alias) == committed

    assert_recovered(fleet, "plan")


@pytest.mark.parametrize(("gap", "committed"), **by_name(GAPS_BETWEEN_SHARDS))
def test_a_worker_killed_between_one_shard_and_the_next_is_healed(server_fleet, gap, committed):
    victim = server_fleet.start(server_fleet.launch(KEY), die_at=gap)
    assert victim.wait() == -signal.SIGKILL
    assert standing(server_fleet.db_alias) == committed

    assert_recovered(server_fleet, "plan")


def test_a_launch_killed_before_it_sends_is_healed(fleet):
    victim = fleet.start(call=("launch", KEY), die_at="plan not sent")
    assert victim.wait() == -signal.SIGKILL
    assert standing(fleet.db_alias) == ("queued", 0, False, 0, False)

    assert_recovered(fleet, "plan")


def test_a_lost_plan_message_is_healed(fleet):
    fleet.launch(KEY)

    assert_recovered(fleet, "plan")


def test_a_healer_killed_before_it_sends_is_healed(fleet):
    fleet.launch(KEY)
    fleet.expire_leases()
    victim = fleet.start(die_at="taken by recovery")
    assert victim.wait() == -signal.SIGKILL
    assert MigrationRecord.objects.using(fleet.db_alias).get().send_count == 1

    assert_recovered(fleet, "plan")


@pytest.mark.parametrize(("stop", "go_on"), [("pause", "resume"), ("cancel", "retry")])
@pytest.mark.parametrize("is_planned", [False, True], ids=["queued", "planned"])
def test_an_operator_killed_before_the_send_is_healed(fleet, stop, go_on, is_planned):
    plan = fleet.launch(KEY)
    if is_planned:
        fleet.start(plan, die_at="batch committed").wait()
    getattr(api, stop)(KEY, fleet.db_alias)
    victim = fleet.start(call=(go_on, KEY), die_at="plan not sent")
    assert victim.wait() == -signal.SIGKILL
    assert standing(fleet.db_alias)[0] == ("running" if is_planned else "queued")

    assert_recovered(fleet, *(["plan", stop, go_on] if is_planned else [stop, go_on, "plan"]))


@pytest.fixture
def dummy(settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    backend = handler.get_backend()
    assert isinstance(backend, DummyBackend)
    return backend


def sent(backend):
    """Return the jobs sent since the last call, counted by key, kind and shard."""
    jobs = [Job.loads(payload) for payload, _ in backend.sent]
    backend.clear()
    return Counter((job.key, job.kind.value, job.shard) for job in jobs)


def make_due(db_alias, **changes):
    past = DatabaseNow(-conf.LEASE)
    MigrationRecord.objects.using(db_alias).update(next_send_at=past)
    ShardRecord.objects.using(db_alias).update(next_send_at=past, **changes)


def add_record(db_alias, name, *, shards=0, **fields):
    record = MigrationRecord.objects.using(db_alias).create(key=f"testapp:{name}", **fields)
    for index in range(shards):
        ShardRecord.objects.using(db_alias).create(
            record=record, attempt_id=record.attempt_id, stage=record.stage, index=index
        )
    return record


def test_a_hundred_healers_send_each_item_once(server_alias, dummy):
    add_record(server_alias, "0002_by_object")
    add_record(server_alias, "0003_by_fields", shards=4, status="running", is_planned=True)
    add_record(server_alias, "0004_by_batch", status="running", is_planned=True)
    add_record(server_alias, "0005_two_stages", status="running", stage=1)
    make_due(server_alias)
    together = threading.Barrier(100)

    def recover():
        connections[server_alias].ensure_connection()
        together.wait()
        worker.recover(server_alias)
        connections.close_all()

    threads = [threading.Thread(target=recover) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    items = [("testapp:0003_by_fields", "shard", index) for index in range(4)]
    items += [("testapp:0002_by_object", "plan", 0), ("testapp:0004_by_batch", "finish", 0)]
    assert sent(dummy) == Counter([*items, (KEY, "plan", 0)])


def test_a_heal_leaves_rows_alone_that_a_batch_has_locked(server_alias, dummy):
    add_record(server_alias, "0003_by_fields", shards=2, status="running", is_planned=True)
    make_due(server_alias, lease_until=DatabaseNow(-conf.LEASE))
    done = threading.Event()

    def recover():
        worker.recover(server_alias)
        connections.close_all()
        done.set()

    with transaction.atomic(server_alias):
        ShardRecord.objects.using(server_alias).filter(index=0).update(fence=1)
        threading.Thread(target=recover).start()
        has_waited = not done.wait(PATIENCE)

    assert done.wait(PATIENCE)
    assert not has_waited
    assert sent(dummy) == {("testapp:0003_by_fields", "shard", 1): 1}


@pytest.mark.parametrize("model", [MigrationRecord, ShardRecord], ids=["plan", "shard"])
def test_the_wait_between_two_sendings_doubles(db_alias, dummy, model):
    shards = 1 if model is ShardRecord else 0
    add_record(db_alias, "0003_by_fields", shards=shards, status="running", is_planned=bool(shards))

    waits = []
    for _ in range(9):
        make_due(db_alias)
        assert worker.recover(db_alias) == 1
        due, now = model.objects.using(db_alias).values_list("next_send_at", DatabaseNow()).get()
        waits.append(round((due - now) / conf.LEASE))

    assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_nothing_is_sent_before_it_is_due(db_alias, dummy):
    add_record(db_alias, "0003_by_fields", shards=2, status="running", is_planned=True)
    make_due(db_alias)
    worker.recover(db_alias)
    dummy.clear()

    assert worker.recover(db_alias) == 0
    assert dummy.sent == []


def test_a_shard_is_not_sent_before_its_lease_has_expired(db_alias, dummy):
    add_record(db_alias, "0003_by_fields", shards=1, status="running", is_planned=True)
    make_due(db_alias, lease_until=DatabaseNow(conf.LEASE))

    assert worker.recover(db_alias) == 0


@pytest.mark.parametrize("is_planned", [False, True], ids=["unplanned", "planned"])
@pytest.mark.parametrize("status", ["paused", "failed", "cancelled", "applied"])
def test_a_record_that_is_not_active_is_left_alone(db_alias, dummy, status, is_planned):
    add_record(db_alias, "0003_by_fields", shards=1, status=status, is_planned=is_planned)
    make_due(db_alias)

    assert worker.recover(db_alias) == 0


def test_a_run_that_a_migration_manages_itself_is_left_alone(db_alias, dummy):
    add_record(db_alias, "0003_by_fields", is_managed=False)
    make_due(db_alias)

    assert worker.recover(db_alias) == 0


def test_one_that_cannot_be_sent_keeps_no_other_from_it(db_alias, dummy, monkeypatch, caplog):
    def refuse():
        raise KeyError("QUEUE_URL")

    monkeypatch.setattr(store.get("testapp:0002_by_object"), "get_backend_params", refuse, raising=False)
    for name in ("0002_by_object", "0003_by_fields"):
        add_record(db_alias, name)
    make_due(db_alias)

    worker.recover(db_alias)

    assert sent(dummy) == {("testapp:0003_by_fields", "plan", 0): 1}
    assert "QUEUE_URL" in caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "queued"},
        {"status": "running", "is_planned": True, "shards": 2},
        {"status": "running", "is_planned": True},
    ],
    ids=["plan", "shards", "finish"],
)
def test_what_the_queue_refuses_is_due_at_once_and_not_counted(db_alias, dummy, monkeypatch, capsys, fields):
    add_record(db_alias, "0003_by_fields", send_count=3, **fields)
    make_due(db_alias)
    key, count = "testapp:0003_by_fields", fields.get("shards", 1)

    def refuse(payload, delay):
        raise ConnectionRefusedError("The broker is down.")

    with monkeypatch.context() as patched:
        patched.setattr(dummy, "send", refuse)
        assert worker.recover(db_alias) == 0
        with pytest.raises(CommandError, match="The broker is down"):
            call_command("massmigrate", recover=True, database=db_alias)

    assert "sent 0 stuck jobs again" in capsys.readouterr().out
    assert Event.objects.using(db_alias).filter(key=key, verb="not sent").count() == 1
    assert "The broker is down" in api.not_sent(key, db_alias)
    assert worker.recover(db_alias) == count
    assert sum(sent(dummy).values()) == count
    assert api.not_sent(key, db_alias) == ""


def test_a_job_that_is_sent_by_hand_is_no_longer_shown_as_not_sent(db_alias, dummy, monkeypatch):
    def refuse(payload, delay):
        raise ConnectionRefusedError("The broker is down.")

    record = add_record(db_alias, "0003_by_fields")
    with monkeypatch.context() as patched:
        patched.setattr(dummy, "send", refuse)
        api.send(record.key, db_alias)
    assert "The broker is down" in api.not_sent(record.key, db_alias)

    api.send(record.key, db_alias)

    assert api.not_sent(record.key, db_alias) == ""


def at_work(db_alias, *shards):
    """Create a shard that a worker owns, and others that are due and have these values."""
    record = add_record(db_alias, "0003_by_fields", shards=1 + len(shards), status="running", is_planned=True)
    make_due(db_alias)
    mine = ShardRecord.objects.using(db_alias).filter(record=record)
    mine.filter(index=0).update(
        lease_token=uuid.uuid4(), lease_until=DatabaseNow(conf.LEASE), heartbeat_at=DatabaseNow()
    )
    for index, changes in enumerate(shards, 1):
        mine.filter(index=index).update(**changes)
    return mine


def test_a_job_that_may_wait_for_its_turn_is_not_sent_again(db_alias, dummy):
    turn = 3 * conf.JOB_DURATION
    shards = at_work(
        db_alias,
        {"next_send_at": DatabaseNow(-turn + dt.timedelta(seconds=5))},
        {"next_send_at": DatabaseNow(-turn - dt.timedelta(seconds=5))},
    )

    worker.recover(db_alias)

    assert sent(dummy) == {("testapp:0003_by_fields", "shard", 2): 1}
    shards.update(heartbeat_at=DatabaseNow(-conf.LEASE))  # no worker processes it any more
    worker.recover(db_alias)
    assert sent(dummy) == {("testapp:0003_by_fields", "shard", 1): 1}


def test_a_job_that_its_owner_had_does_not_wait_for_its_turn(db_alias, dummy):
    at_work(db_alias, {"next_send_at": DatabaseNow(), "lease_token": uuid.uuid4()})

    worker.recover(db_alias)

    assert sent(dummy) == {("testapp:0003_by_fields", "shard", 1): 1}


def test_a_job_that_was_given_up_does_not_wait_for_its_turn(db_alias, dummy):
    shards = at_work(db_alias, {})
    job = Job(
        kind=JobKind.SHARD,
        key="testapp:0003_by_fields",
        db_alias=db_alias,
        shard=1,
        attempt_id=str(shards[1].attempt_id),
    )
    recorder.release(recorder.claim(job, "one that is told to stop"), wait=None)

    worker.recover(db_alias)

    assert sent(dummy) == {("testapp:0003_by_fields", "shard", 1): 1}


def test_one_worker_whose_shards_take_turns_doubles_no_job(server_alias, dummy, settings, monkeypatch):
    oracle.make_items(server_alias, 400)
    settings.MASSMIGRATION_BATCH_SIZE = settings.MASSMIGRATION_MAX_BATCH_SIZE = 2
    settings.MASSMIGRATION_SHARDS = 8
    settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=1)
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(seconds=0.5)
    monkeypatch.setattr("massmigration.paging.sharding.MIN_SHARD_SIZE", 1)
    # Many batches per job, so that a job ends nearly in time even on a busy machine.
    monkeypatch.setenv("MM_TEST_PAUSE", "0.02")
    backend = handler.get_backend()
    api.launch("testapp:0002_by_object", server_alias)
    shards = None

    most, longest = 0, 0.0
    while backend.sent:
        started = time.monotonic()
        perform_with(backend.sent.pop(0)[0], backend)
        longest = max(longest, time.monotonic() - started)
        most = max(most, len(backend.sent))
        shards = shards or ShardRecord.objects.using(server_alias).filter(is_done=False).count()

    # A shard's turn comes later if the machine is too busy to end a job in time, and then its job may be sent again.
    lateness = max(longest / settings.MASSMIGRATION_JOB_DURATION.total_seconds(), 1)
    assert shards > 1
    assert most <= 2 * shards * lateness  # otherwise, several times as many
