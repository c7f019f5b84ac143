import contextlib
import dataclasses
import datetime as dt
import functools
import itertools
import random
import time
import uuid
from bisect import bisect_left

import pytest
from django.db import connections, transaction
from django.db.models import F

from massmigration import api
from massmigration.backends import worker
from massmigration.backends.dummy import DummyBackend
from massmigration.backends.handler import get_backend
from massmigration.backends.worker import perform_with
from massmigration.exceptions import BadPayload
from massmigration.executor import job as executor_job
from massmigration.executor import throttle
from massmigration.executor.throttle import name_of
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.recorder import shards, waits
from massmigration.throttling import CompletedBatch, MaxRowsPerSecond, Pause, Wait
from testsupport import databases
from testsupport.frozen import Deliveries, FrozenClock
from testsupport.oracle import counts, make_items
from testsupport.testapp.models import Item

KEY = "testapp:9003_limited"
WINDOW = 10.0


class Limited(MapperMigration):
    """Notes when each row was done."""

    clock: FrozenClock
    done: list[float]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.save(update_fields=["n"])
        self.done.append(self.clock.seconds)


@pytest.fixture
def clock(monkeypatch):
    clock = FrozenClock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture
def migration(clock, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    found = Limited(*KEY.split(":"))
    found.clock, found.done = clock, []
    with store.registered(found):
        yield found


@pytest.fixture
def deliveries(clock, migration):
    return Deliveries(clock)


def most_in_a_window(times):
    """Return the greatest number of rows in any ten seconds."""
    return max(bisect_left(times, start + WINDOW) - index for index, start in enumerate(times))


def assert_limited(migration, db_alias, limit, rows):
    assert len(migration.done) == rows
    assert counts(db_alias) == [1]
    assert MigrationRecord.objects.using(db_alias).get().status == "applied"
    assert most_in_a_window(sorted(migration.done)) <= 1.1 * limit * WINDOW
    # It is not much slower than allowed, either.
    assert max(migration.done) <= 1.3 * rows / limit + 1


@pytest.fixture
def planned(db_alias, deliveries, migration, monkeypatch, settings):
    """Launch and plan with so many rows and shards; what is sent for them waits."""

    def plan(rows, count=1):
        monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
        settings.MASSMIGRATION_SHARDS = count
        make_items(db_alias, rows)
        api.launch(KEY, db_alias)
        backend = get_backend()
        perform_with(backend.sent.pop(0)[0], backend)
        return [Job.loads(payload) for payload in deliveries.waiting]

    return plan


@pytest.mark.parametrize("limit", [0.5, 40])
def test_a_limit_is_kept_from_the_first_batch_to_the_last(db_alias, migration, planned, deliveries, limit):
    migration.throttle = [MaxRowsPerSecond(limit)]
    rows = int(limit * 14)
    planned(rows)

    deliveries.run()

    assert_limited(migration, db_alias, limit, rows)


def test_shards_share_a_limit(db_alias, migration, planned, deliveries, settings):
    limit, rows = 3, 40
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(seconds=0)
    migration.throttle = [MaxRowsPerSecond(limit)]
    planned(rows, 5)

    deliveries.run()

    assert_limited(migration, db_alias, limit, rows)


def test_a_batch_has_a_quarter_of_a_second_at_most(db_alias, migration, planned, deliveries, settings):
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
    migration.batch_size = 100
    migration.throttle = [MaxRowsPerSecond(80)]
    planned(60)

    deliveries.run(1)

    assert ShardRecord.objects.using(db_alias).get().processed == 20


@pytest.mark.parametrize("seed", range(3))
def test_slots_are_spaced_whoever_takes_them(db_alias, migration, planned, clock, seed):
    limit, chance = 40, random.Random(seed)
    planned(4)
    (shard,) = ShardRecord.objects.using(db_alias).filter(is_done=False)[:1]
    for index in range(10, 16):
        ShardRecord.objects.using(db_alias).create(
            record_id=KEY, attempt_id=shard.attempt_id, stage=0, index=index, lower=[index]
        )
    job = Job(kind=JobKind.SHARD, key=KEY, db_alias=db_alias, attempt_id=str(shard.attempt_id))
    claims = [shards.claim(shards.job_for(job, index, None), "one of many") for index in range(10, 16)]

    begun = []
    while clock.seconds < 11:
        slot = waits.take_slot(chance.choice(claims), limit, 50, "limit", patience=throttle.SHORT)
        if slot.is_taken:
            begun.append((clock.seconds + slot.wait.total_seconds(), slot.rows))
        clock.seconds += chance.choice([0, 0, 0, 0.01, 0.05, 2])

    times = sorted(itertools.chain.from_iterable([time] * rows for time, rows in begun))
    assert {rows for _, rows in begun} == {1}  # a quarter of a second's, for six
    assert most_in_a_window(times) <= limit * WINDOW + 1


class Killed(BaseException):
    pass


def test_a_limit_is_kept_by_doubles_kills_and_healing(db_alias, planned, deliveries, migration, monkeypatch, settings):
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(seconds=0)
    settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=2)
    limit, rows, chance = 1.2, 15, random.Random(1)
    migration.throttle = [MaxRowsPerSecond(limit)]
    planned(rows, 2)
    release, kills = shards.release, []
    deliveries.copies, deliveries.bears = 2, (Killed,)

    def maybe_die(claim, **how):
        # After the commit of a batch, while it has the lease. The queue delivers the message again.
        if chance.random() < 0.2:
            kills.append(claim.job)
            deliveries.send(claim.job.dumps())
            raise Killed
        return release(claim, **how)

    monkeypatch.setattr(executor_job.shards, "release", maybe_die)
    deliveries.run(beside=lambda: chance.random() < 0.05 and (api.send(KEY, db_alias), api.recover(db_alias)))

    assert kills
    assert len(migration.done) == rows
    assert counts(db_alias) == [1]
    assert most_in_a_window(sorted(migration.done)) <= 1.1 * limit * WINDOW


def test_a_throttle_is_asked_before_the_first_batch(db_alias, migration, planned, deliveries, clock):
    asked = []
    migration.throttle = [lambda batch: asked.append((clock.seconds, batch.rows)) or dt.timedelta(seconds=30)]
    migration.batch_size = 2
    planned(4)

    deliveries.run()

    assert migration.done == [30, 30, 60, 60]
    assert asked == [(0, 0), (30, 2), (60, 2)]


def test_what_a_throttle_has_asked_for_holds_for_every_job(db_alias, migration, planned, deliveries, clock):
    asked = []
    migration.throttle = [lambda batch: asked.append(clock.seconds) or dt.timedelta(seconds=30)]
    (job,) = planned(4)
    deliveries.run(1)
    clock.seconds = 0.4

    api.send(KEY, db_alias)
    deliveries.run(2)

    assert asked == [0]
    assert shards.claim(job, "another") is None
    shard = ShardRecord.objects.using(db_alias).get()
    assert (shard.throttled_until - clock.now, shard.throttled_by) == (dt.timedelta(seconds=29.6), "<lambda>")
    assert shards.shard_state(job).throttle_left == dt.timedelta(seconds=29.6)


def test_a_worker_is_given_back_during_a_long_wait_for_a_limit(db_alias, migration, planned, deliveries, clock):
    migration.throttle = [MaxRowsPerSecond(0.5)]
    planned(2)

    deliveries.run(1)

    assert clock.seconds == 0
    assert MigrationRecord.objects.using(db_alias).get().limited_until - clock.now == dt.timedelta(seconds=2)
    assert len(deliveries.waiting) == 1


def test_a_shard_is_not_sent_before_its_wait_is_over(db_alias, migration, planned, deliveries, clock):
    throttled_for(migration, seconds=30)
    planned(4)
    deliveries.run(1)
    ShardRecord.objects.using(db_alias).update(next_send_at=clock.now - dt.timedelta(days=1))

    assert api.recover(db_alias) == 0
    clock.seconds = 31
    assert api.recover(db_alias) == 1


def test_a_batch_does_not_begin_before_its_time(db_alias, migration, planned, clock):
    (job,) = planned(4)
    claim = shards.claim(job, "owner")
    waits.keep(claim, dt.timedelta(seconds=5), "lag")

    assert not shards.raise_fence(claim)
    clock.seconds += 5
    assert shards.raise_fence(claim)


def test_the_wait_after_a_shards_last_batch_is_kept_by_who_takes_another(db_alias, migration, planned, deliveries):
    migration.throttle = [lambda batch: dt.timedelta(seconds=7) if batch.rows else None]

    planned(4, 2)
    deliveries.run()

    assert migration.done == ([0] * 4 if db_alias == "default" else [0, 0, 7, 7])


class Held:
    """A throttle that is called before each batch, and asks for waits until it is released."""

    before_each_batch = True

    def __init__(self, clock, wait=None, *, until=0.0):
        self.clock, self.until, self.wait = clock, until, wait or dt.timedelta(seconds=5)
        self.calls = []

    def __call__(self, batch):
        self.calls.append((self.clock.seconds, batch.is_waiting))
        return Wait(duration=self.wait, reason="the load is 7") if self.clock.seconds < self.until else None


def test_no_batch_begins_while_a_throttle_holds_it(db_alias, migration, planned, deliveries, clock):
    throttle = Held(clock, until=12)
    migration.throttle = [throttle]
    planned(3)

    deliveries.run()

    assert migration.done == [15] * 3
    assert counts(db_alias) == [1]
    assert throttle.calls[:4] == [(0, False), (5, True), (10, True), (15, True)]


def test_a_throttle_is_called_before_each_batch(db_alias, migration, planned, deliveries, clock):
    throttle = Held(clock)
    migration.throttle, migration.batch_size = [throttle], 2
    planned(6)

    deliveries.run()

    assert len(throttle.calls) >= 3
    assert not any(is_waiting for _, is_waiting in throttle.calls)


def test_the_reason_of_a_wait_is_recorded(db_alias, migration, planned, deliveries, clock):
    migration.throttle = [Held(clock, until=12)]
    planned(3)

    deliveries.run(1)

    shard = ShardRecord.objects.using(db_alias).get()
    assert (shard.throttled_by, shard.throttled_until - clock.now) == ("Held: the load is 7", dt.timedelta(seconds=5))
    assert "by Held: the load is 7" in api.status(KEY, db_alias).throttle


def test_a_worker_sleeps_once_through_a_short_wait(db_alias, migration, planned, deliveries, clock):
    throttle = Held(clock, dt.timedelta(seconds=1), until=2.5)
    migration.throttle = [throttle]
    planned(3)

    deliveries.run(1)

    assert [is_waiting for _, is_waiting in throttle.calls] == [False, True]
    assert (migration.done, len(deliveries.waiting)) == ([], 1)
    deliveries.run()
    assert len(migration.done) == 3


def test_a_throttle_that_raises_before_a_batch_holds_it(db_alias, migration, planned, deliveries, clock, caplog):
    def broken(batch):
        if clock.seconds < 3:
            raise RuntimeError("no such meter")

    broken.before_each_batch = True
    migration.throttle = [broken]
    planned(3)

    deliveries.run()

    assert min(migration.done) >= 3
    assert "RuntimeError" in caplog.text


def test_a_throttle_pauses_a_migration(db_alias, migration, planned, deliveries):
    def overload(batch):
        return Pause(reason="60 sessions")

    overload.before_each_batch = True
    migration.throttle = [overload]
    planned(3)

    deliveries.run(1)

    assert (migration.done, deliveries.waiting) == ([], [])
    assert MigrationRecord.objects.using(db_alias).get().status == "paused"
    event = Event.objects.using(db_alias).get(verb="pause")
    assert (event.actor, event.to_status) == ("throttle overload: 60 sessions", "paused")
    migration.throttle = []
    api.resume(KEY, db_alias)
    deliveries.run()
    assert counts(db_alias) == [1]


def test_a_pause_after_a_batch_keeps_the_batch(db_alias, migration, planned, deliveries):
    migration.throttle = [lambda batch: Pause(reason="enough") if batch.rows else None]
    migration.batch_size = 2
    planned(6)

    deliveries.run(1)

    assert (len(migration.done), counts(db_alias)) == (2, [0, 1])
    assert MigrationRecord.objects.using(db_alias).get().status == "paused"


def test_a_throttle_knows_the_tables(db_alias, migration, planned, deliveries):
    tables = []
    migration.throttle = [lambda batch: tables.append(batch.tables)]
    planned(1)

    deliveries.run()

    assert tables[0] == ["testapp_item"]


def test_a_throttle_knows_how_long_the_commit_took(db_alias, migration, planned, deliveries):
    durations = []
    migration.throttle, migration.batch_size = [lambda batch: durations.append(batch.commit_duration)], 2
    # A commit is measured before the functions of others.
    migration.operation = lambda obj, alias: transaction.on_commit(lambda: time.sleep(0.2), using=alias)
    planned(4)

    deliveries.run()

    before, *after = durations
    assert before is None
    assert all(dt.timedelta(0) < each < dt.timedelta(seconds=0.2) for each in after)


def test_the_time_of_a_slow_commit_is_measured(postgresql, migration, clock, django_db_setup, django_db_blocker):
    durations = []
    migration.throttle = [lambda batch: durations.append(batch.commit_duration)]
    with django_db_blocker.unblock(), slow_commits(postgresql):
        make_items(postgresql, 2)
        api.launch(KEY, postgresql)
        Deliveries(clock).run()
        databases.empty(postgresql)

    assert durations[-1] >= dt.timedelta(seconds=0.4)  # of two rows


@contextlib.contextmanager
def slow_commits(db_alias):
    """Let the COMMIT of a transaction take 0.2 s for each row of `Item` that it has changed."""
    with connections[db_alias].cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END'"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON testapp_item DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION slow()"
        )
    try:
        yield
    finally:
        with connections[db_alias].cursor() as cursor:
            cursor.execute("DROP FUNCTION slow() CASCADE")


def test_without_a_throttle_nothing_is_asked(db_alias, migration, planned, deliveries, monkeypatch):
    for name in ("active_workers", "keep", "take_slot"):
        monkeypatch.delattr(waits, name)
    planned(4)

    deliveries.run()

    assert counts(db_alias) == [1]


def test_a_shutdown_during_a_wait_begins_no_batch(db_alias, migration, planned, deliveries, clock, monkeypatch):
    migration.throttle = [MaxRowsPerSecond(4)]
    planned(8)
    stopping = []
    monkeypatch.setattr(DummyBackend, "stop_requested", lambda backend: bool(stopping))
    monkeypatch.setattr(clock, "sleep", stopping.append)

    deliveries.run(1)

    assert migration.done == [0]
    assert ShardRecord.objects.using(db_alias).get().lease_token is None


def test_a_shutdown_after_a_batch_begins_no_other(db_alias, migration, planned, deliveries, clock, monkeypatch):
    throttled_for(migration, milliseconds=500)
    planned(4)
    stopping = []
    monkeypatch.setattr(DummyBackend, "stop_requested", lambda backend: bool(stopping))
    monkeypatch.setattr(clock, "sleep", stopping.append)

    deliveries.run(1)

    assert migration.done == [0, 0]
    assert stopping


def throttled_for(migration, **wait):
    migration.throttle = [lambda batch: dt.timedelta(**wait) if batch.rows else None]
    migration.batch_size = 2


def test_a_wait_longer_than_the_queue_holds_has_no_job(db_alias, migration, planned, deliveries, clock, monkeypatch):
    monkeypatch.setattr(DummyBackend, "max_delay", dt.timedelta(minutes=5))
    throttled_for(migration, minutes=30)
    planned(4)
    deliveries.run()
    assert migration.done == [0, 0]

    assert api.recover(db_alias) == 0
    clock.seconds = 30 * 60 + 1
    assert api.recover(db_alias) == 1
    deliveries.run()

    assert migration.done == [0, 0, clock.seconds, clock.seconds]
    assert counts(db_alias) == [1]


def test_such_a_shard_does_not_wait_for_others(db_alias, migration, planned, deliveries, clock, monkeypatch):
    monkeypatch.setattr(DummyBackend, "max_delay", dt.timedelta(minutes=5))
    throttled_for(migration, minutes=30)
    planned(4)
    deliveries.run()
    clock.seconds = 30 * 60 + 1
    shard = ShardRecord.objects.using(db_alias).get()
    other = {"lease_token": uuid.uuid4(), "lease_until": clock.now + dt.timedelta(minutes=1), "heartbeat_at": clock.now}
    ShardRecord.objects.using(db_alias).create(record_id=KEY, attempt_id=shard.attempt_id, stage=0, index=5, **other)

    assert api.recover(db_alias) == 1


def test_a_healing_process_wakes_when_the_wait_is_over(db_alias, migration, planned, deliveries, clock, monkeypatch):
    monkeypatch.setattr("massmigration.backends.worker.time", clock)
    monkeypatch.setattr("massmigration.backends.worker._last", {})
    monkeypatch.setattr(DummyBackend, "max_delay", dt.timedelta(seconds=10))
    throttled_for(migration, seconds=20)
    planned(4)
    deliveries.run()
    assert worker.is_due("here")
    api.recover(db_alias)

    clock.seconds = 19
    assert not worker.is_due("here")
    clock.seconds = 20.1
    assert worker.is_due("here")
    assert not worker.is_due("here")


def test_a_worker_holds_a_wait_in_pieces(db_alias, migration, planned, deliveries, clock, monkeypatch):
    monkeypatch.setattr(DummyBackend, "supports_delay", False)
    throttled_for(migration, seconds=12)
    planned(4)

    deliveries.run(1)
    assert clock.seconds == pytest.approx(5)
    deliveries.run(1)
    assert clock.seconds == pytest.approx(10)
    deliveries.run()

    assert migration.done[:2] == [0, 0]
    assert migration.done[2] == pytest.approx(12, abs=5)
    assert counts(db_alias) == [1]


class Doubled:
    """A shard whose batches are jobs of their own."""

    @pytest.fixture(autouse=True)
    def one_batch_a_job(self, settings, migration):
        settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
        migration.batch_size = 2


class TestTickets(Doubled):
    def test_a_doubled_message_ends_within_one_job(self, db_alias, planned, deliveries):
        (job,) = planned(16)
        for _ in range(3):
            deliveries.send(job.dumps())

        deliveries.run(8)

        assert len(deliveries.waiting) == 1
        deliveries.run()
        assert deliveries.delivered <= 8 + 4
        assert counts(db_alias) == [1]

    def test_send_again_ends_within_one_job(self, db_alias, planned, deliveries):
        planned(16)
        deliveries.run(2)
        for _ in range(3):
            api.send(KEY, db_alias)

        deliveries.run(3 + 8)

        assert len([payload for payload in deliveries.waiting if Job.loads(payload).kind is JobKind.SHARD]) == 1
        deliveries.run()
        assert counts(db_alias) == [1]

    def test_a_job_is_dropped_when_its_continuation_has_claimed(self, db_alias, planned, deliveries, migration):
        (job,) = planned(16)
        deliveries.run(2)

        deliveries.send(job.dumps())
        deliveries.run(2)

        assert len(migration.done) == 2 * 3
        assert len(deliveries.waiting) == 1

    def test_a_job_that_comes_back_before_its_continuation_goes_on(self, db_alias, planned, deliveries, migration):
        # Its worker was killed between the commit and the send.
        (job,) = planned(16)
        deliveries.run(1)
        get_backend().clear()

        deliveries.send(job.dumps())
        deliveries.run()

        assert counts(db_alias) == [1]

    def test_the_message_of_a_killed_worker_goes_on_without_healing(self, db_alias, planned, deliveries):
        (job,) = planned(16)
        shards.claim(job, "one that dies")

        deliveries.run()  # without recovery

        assert counts(db_alias) == [1]

    def test_one_job_waits_for_a_shard_that_is_taken(self, db_alias, planned, deliveries, clock):
        (job,) = planned(16)
        shards.claim(job, "owner")
        for _ in range(4):
            deliveries.send(job.dumps())

        deliveries.run(5)

        (waiting,) = deliveries.waiting
        assert Job.loads(waiting).ticket != job.ticket

    def test_what_the_owner_goes_on_with_takes_the_place_of_who_waits(self, db_alias, planned, deliveries):
        (job,) = planned(16)
        claim = shards.claim(job, "owner")
        deliveries.run(1)
        (waiting,) = deliveries.waiting

        shards.release(claim, wait=dt.timedelta(0))

        assert shards.claim(Job.loads(waiting), "another") is None
        assert shards.claim(job.continued(), "the next") is not None

    def test_a_claim_replaces_the_jobs_before_it(self, db_alias, planned):
        (job,) = planned(16)
        shards.release(shards.claim(job, "owner"), wait=dt.timedelta(0))
        assert not shards.shard_state(job).is_replaced

        shards.claim(job.continued(), "the next")

        assert shards.shard_state(job).is_replaced

    def test_a_job_without_a_ticket_is_harmless(self, db_alias, planned, deliveries):
        (job,) = planned(16)
        old = dataclasses.replace(job, ticket="")
        deliveries.run(1)
        deliveries.send(old.dumps())
        deliveries.run(2)
        assert len(deliveries.waiting) == 1

        ShardRecord.objects.using(db_alias).update(ticket=None)
        get_backend().clear()
        deliveries.send(old.dumps())
        deliveries.run()

        assert counts(db_alias) == [1]

    def test_a_lost_continuation_is_healed(self, db_alias, planned, deliveries, clock):
        planned(16)
        deliveries.run(3)
        assert deliveries.waiting
        get_backend().clear()
        deliveries._waiting.clear()

        clock.seconds += 1000
        assert api.recover(db_alias) == 1
        deliveries.run()

        assert counts(db_alias) == [1]

    def test_a_retry_accepts_its_own_jobs_alone(self, db_alias, planned, deliveries):
        planned(16)
        deliveries.run(2)
        api.cancel(KEY, db_alias)

        api.retry(KEY, db_alias)

        assert ShardRecord.objects.using(db_alias).get().ticket is None
        deliveries.run()
        assert counts(db_alias) == [1]


def test_a_stolen_shard_has_a_ticket_of_its_own(server_alias):
    job = Job(kind=JobKind.SHARD, key=KEY, db_alias=server_alias, attempt_id=str(uuid.uuid4())).continued()

    stolen = shards.job_for(job, 7, None)

    assert (stolen.shard, stolen.after) == (7, "")
    assert stolen.ticket not in ("", job.ticket)


@pytest.mark.parametrize("field", ["ticket", "after"])
def test_a_ticket_that_is_none_makes_a_bad_payload(field):
    job = Job(kind=JobKind.SHARD, key=KEY, db_alias="default", attempt_id=str(uuid.uuid4()))

    with pytest.raises(BadPayload, match="is not a UUID"):
        Job.loads(job.dumps().replace(f'"{field}": ""', f'"{field}": "x"'))


def a_throttle(batch: CompletedBatch):
    return None


@pytest.mark.parametrize(
    ("throttle", "name"),
    [
        (MaxRowsPerSecond(5), "MaxRowsPerSecond"),
        (a_throttle, "a_throttle"),
        (functools.partial(a_throttle), "a_throttle"),
        ("shop.throttles.gentle", "shop.throttles.gentle"),
    ],
    ids=["class", "function", "partial", "path"],
)
def test_a_throttle_is_told_by_its_name(throttle, name):
    assert name_of(throttle) == name


class Nightly(MaxRowsPerSecond):
    def __call__(self, batch):
        return dt.timedelta(seconds=9) if batch.rows else None


def test_a_limit_that_says_itself_how_long_to_wait_is_asked(db_alias, migration, planned, deliveries):
    migration.throttle = [Nightly(40)]
    planned(15)

    deliveries.run()

    assert migration.done == [0] * 10 + [9] * 5
