import datetime as dt
import re

import pytest
from django.db import connections
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from massmigration import api, executor
from massmigration.backends.handler import get_backend
from massmigration.backends.sender import JobSender
from massmigration.conf import settings as conf
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import InvalidTransition
from massmigration.jobs import Job
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.recorder import shards, stuck, work_stealing
from massmigration.states import Status
from massmigration.throttling import Wait
from testsupport.oracle import counts, make_items
from testsupport.testapp.models import Item
from testsupport.threads import Gate, blocked_at_commit, in_thread, wait_until_blocked

KEY = "testapp:9004_paced"
ROWS = 24


class Paced(MapperMigration):
    batch_size = 4

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.save(update_fields=["n"])


class Run:
    """A migration whose jobs the test performs, and may do something between two batches."""

    def __init__(self, db_alias, migration):
        self.db_alias = db_alias
        self.migration = migration
        self.batches = []
        """The rows of each batch."""

    def launch(self):
        api.launch(KEY, self.db_alias)
        self.perform(self.take())
        return [self.take() for _ in range(len(get_backend().sent))]

    def take(self):
        return Job.loads(get_backend().sent.pop(0)[0])

    def perform(self, job, beside=lambda batch: None):
        """Perform a job; call `beside` with the number of batches after each of them."""
        done = self.rows

        def between(db_alias):
            nonlocal done
            rows = self.rows
            self.batches.append(rows - done)
            done = rows
            beside(len(self.batches))

        return executor.run(job, JobSender(get_backend()), between_batches=between)

    @property
    def rows(self):
        return sum(ShardRecord.objects.using(self.db_alias).values_list("processed", flat=True))

    @property
    def record(self):
        return MigrationRecord.objects.using(self.db_alias).get()


@pytest.fixture
def ready(settings):
    """Return a function that makes rows and a migration on a database."""
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    migration = Paced(*KEY.split(":"))

    def make(db_alias):
        make_items(db_alias, ROWS)
        return Run(db_alias, migration)

    with store.registered(migration):
        yield make


@pytest.fixture
def run(db_alias, ready):
    return ready(db_alias)


@pytest.fixture
def shared(server_alias, ready, monkeypatch, settings):
    """Return a run with four shards."""
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    settings.MASSMIGRATION_SHARDS = 4
    return ready(server_alias)


def at(number, call):
    return lambda batch: call() if batch == number else None


def test_a_batch_size_holds_from_the_next_batch_on(run, db_alias):
    (job,) = run.launch()

    run.perform(job, at(2, lambda: api.set_pace(KEY, db_alias, max_batch_size=1)))

    assert run.batches[:5] == [4, 4, 1, 1, 1]
    assert (run.record.status, counts(db_alias)) == ("applied", [1])


def test_a_limit_of_rows_holds_from_the_next_batch_on(run, db_alias):
    (job,) = run.launch()

    run.perform(job, at(2, lambda: api.set_pace(KEY, db_alias, max_rows_per_second=4000)))

    assert run.batches[:3] == [4, 4, 4]
    assert run.record.limited_until is not None  # the third batch has taken a slot


def test_a_raised_limit_does_not_wait_for_the_slots_of_the_old_one(run, db_alias):
    (job,) = run.launch()
    MigrationRecord.objects.using(db_alias).update(limited_until=DatabaseNow(dt.timedelta(hours=1)))

    api.set_pace(KEY, db_alias, max_rows_per_second=4000)
    delivery = run.perform(job)

    assert (delivery, run.record.status) == (None, "applied")


def test_a_duration_holds_from_the_next_batch_on(run, db_alias, monkeypatch):
    seen = []
    (job,) = run.launch()
    monkeypatch.setattr(
        executor.job,
        "AdaptiveBatchSize",
        lambda *args, __real=executor.job.AdaptiveBatchSize, **kwargs: (
            seen.append(kwargs["duration"]) or __real(*args, **kwargs)
        ),
    )

    run.perform(job, at(1, lambda: api.set_pace(KEY, db_alias, batch_duration=5)))

    assert seen == [None, dt.timedelta(seconds=5)]


def test_outside_of_its_window_no_batch_starts(run, db_alias, monkeypatch):
    (job,) = run.launch()
    now = dt.datetime.now(dt.timezone.utc)
    closed = ((now + dt.timedelta(hours=6)).time(), (now + dt.timedelta(hours=7)).time())

    delivery = run.perform(job, at(2, lambda: api.set_pace(KEY, db_alias, window=closed)))

    assert (run.rows, delivery.delay > dt.timedelta(hours=1)) == (8, True)
    progress = api.status(KEY, db_alias)
    assert progress.throttled_by.startswith("pace OnlyBetween: it is not between")
    assert "throttled until" in progress.throttle


def test_throttles_that_are_turned_off_are_not_called_and_their_wait_ends(run, db_alias):
    run.migration.throttle = [lambda batch: Wait(duration=dt.timedelta(hours=1), reason="a sale is on")]
    (job,) = run.launch()
    delivery = run.perform(job)
    assert (run.rows, api.status(KEY, db_alias).throttled_by) == (0, "<lambda>: a sale is on")

    api.set_pace(KEY, db_alias, throttles=False)
    run.perform(delivery.job)

    assert (run.record.status, counts(db_alias)) == ("applied", [1])


def test_a_wait_that_the_operation_has_asked_for_stays(run, db_alias):
    run.launch()
    ShardRecord.objects.using(db_alias).update(
        throttled_until=DatabaseNow(dt.timedelta(hours=1)), throttled_by="the operation: later"
    )

    api.set_pace(KEY, db_alias, throttles=False)

    assert ShardRecord.objects.using(db_alias).get().throttled_until is not None


def test_a_batch_reads_its_status_and_pace_and_the_switch_with_one_query(run, db_alias):
    (job,) = run.launch()
    api.pause_all(db_alias)
    api.resume_all(db_alias)
    queries = {}
    captured = CaptureQueriesContext(connections[db_alias])

    def beside(batch):
        captured.__exit__(None, None, None)
        queries[batch] = [each["sql"] for each in captured.captured_queries][:-1]  # the last one counts the test's rows
        if batch == 2:
            api.set_pace(KEY, db_alias, max_batch_size=4, max_workers=3, batch_duration=5)
        captured.__enter__()

    with captured:
        run.perform(job, beside)

    tables = re.compile("massmigration_(shardrecord|migrationrecord|switch)")
    own = {batch: [sql for sql in found if tables.search(sql)] for batch, found in queries.items()}
    assert len(own[4]) == 3
    assert len(queries[4]) == len(queries[2])
    (read,) = [sql for sql in own[4] if sql.lstrip().startswith("SELECT")]
    assert "pace" in read
    assert "massmigration_switch" in read


def test_a_change_leaves_an_event_with_who_and_what(run, db_alias):
    run.launch()

    api.set_pace(KEY, db_alias, max_workers=2, actor="ann")
    api.set_pace(KEY, db_alias, max_workers="1", throttles="off", actor="ben")
    api.set_pace(KEY, db_alias, max_workers=1, actor="cid")

    events = Event.objects.using(db_alias).filter(verb="pace").order_by("pk")
    assert list(events.values_list("actor", "detail")) == [
        ("ann", "max_workers: default -> 2"),
        ("ben", "max_workers: 2 -> 1; throttles: on -> off"),
    ]


def test_a_pace_is_kept_by_a_retry_and_a_restart_and_not_by_a_forgotten_record(run, db_alias):
    run.launch()
    api.set_pace(KEY, db_alias, max_workers=2)
    for again in (api.retry, api.restart):
        api.cancel(KEY, db_alias)
        again(KEY, db_alias)
        assert api.get_pace(KEY, db_alias).max_workers == 2
    api.cancel(KEY, db_alias)
    api.forget(KEY, db_alias)
    api.launch(KEY, db_alias)

    assert api.get_pace(KEY, db_alias).as_json() == {}


@pytest.mark.parametrize("status", [None, Status.APPLIED])
def test_a_migration_that_is_not_to_run_has_no_pace(run, db_alias, status):
    if status:
        api.fake(KEY, db_alias)

    with pytest.raises(InvalidTransition, match="Cannot pace migration"):
        api.set_pace(KEY, db_alias, max_workers=1)


# Workers at once.


def claim(job):
    return shards.claim(job, "a worker")


def test_a_claim_counts_the_leases_that_are_held(shared, server_alias):
    one, two, three, *_ = shared.launch()
    api.set_pace(KEY, server_alias, max_workers=2)

    held = [claim(one), claim(two)]
    refused = claim(three)
    shards.release(held[0], wait=None)

    assert all(held)
    assert refused is None
    assert claim(three) is not None


def test_an_expired_lease_takes_no_place(shared, server_alias):
    one, two, *_ = shared.launch()
    api.set_pace(KEY, server_alias, max_workers=1)
    assert claim(one)
    ShardRecord.objects.using(server_alias).update(lease_until=DatabaseNow(-conf.LEASE))

    assert claim(two)


def test_of_two_claims_at_the_same_moment_one_waits_for_the_other(shared, server_alias):
    one, two, *_ = shared.launch()
    api.set_pace(KEY, server_alias, max_workers=1)
    gate = Gate()

    def first():
        with blocked_at_commit(server_alias, "UPDATE.*massmigration_shardrecord", gate):
            return claim(one)

    taken = in_thread(first)
    gate.await_arrivals()
    other = in_thread(claim, two)
    wait_until_blocked(server_alias)
    gate.open()

    assert taken.result() is not None
    assert other.result() is None


def test_a_job_without_a_place_comes_again_soon(shared, server_alias):
    one, two, *_ = shared.launch()
    api.set_pace(KEY, server_alias, max_workers=1)
    assert claim(one)

    delivery = shared.perform(two)

    assert delivery.delay == executor.job.ROOM_WAIT
    assert delivery.job.shard == two.shard


def test_a_worker_whose_shard_is_done_gives_its_place_to_the_next(shared, server_alias):
    one, *others = shared.launch()
    api.set_pace(KEY, server_alias, max_workers=1)

    shared.perform(one)

    assert shared.record.status == "applied"
    assert counts(server_alias) == [1]
    assert others


def test_fewer_workers_release_their_shards_at_the_next_batch(shared, server_alias):
    one, two, *_ = shared.launch()
    other = claim(two)
    assert other

    delivery = shared.perform(one, at(1, lambda: api.set_pace(KEY, server_alias, max_workers=1)))

    assert shared.batches == [4]
    assert delivery.job.shard == one.shard
    held = ShardRecord.objects.using(server_alias).filter(lease_token__isnull=False)
    assert list(held.values_list("pk", flat=True)) == [other.pk]


def test_no_part_of_a_shard_is_taken_without_a_place(shared, server_alias):
    one, two, *_ = shared.launch()
    assert claim(one)
    assert claim(two)
    victim = ShardRecord.objects.using(server_alias).get(index=one.shard)
    api.set_pace(KEY, server_alias, max_workers=2)
    seen = work_stealing.Victim(pk=victim.pk, after=victim.lower, upper=victim.upper, batch_size=1)
    middle = [Item.objects.using(server_alias).order_by("pk").first().pk]

    assert work_stealing.split(two, seen, middle, worker="w", is_ahead=lambda after: True) is None
    api.set_pace(KEY, server_alias, max_workers=3)
    assert work_stealing.split(two, seen, middle, worker="w", is_ahead=lambda after: True) is not None


# Pause everything.


def test_while_everything_is_paused_no_batch_starts(run, db_alias):
    (job,) = run.launch()

    delivery = run.perform(job, at(2, lambda: api.pause_all(db_alias, actor="ann")))

    assert (delivery, run.rows, run.record.status) == (None, 8, "running")
    assert ShardRecord.objects.using(db_alias).get().lease_token is None


def test_while_everything_is_paused_no_shard_is_claimed_and_no_stage_planned(run, db_alias):
    run.launch()
    api.cancel(KEY, db_alias)
    api.restart(KEY, db_alias)
    plan = run.take()
    api.pause_all(db_alias)

    assert run.perform(plan) is None
    assert run.record.status == "queued"
    api.resume_all(db_alias)
    run.perform(run.take())
    api.pause_all(db_alias)
    assert claim(run.take()) is None
    assert stuck.take_stuck_jobs(db_alias) == []


def test_when_it_is_resumed_every_active_migration_goes_on(run, db_alias):
    (job,) = run.launch()
    run.perform(job, at(1, lambda: api.pause_all(db_alias)))
    assert get_backend().sent == []

    assert api.resume_all(db_alias)
    while get_backend().sent:
        run.perform(run.take())

    assert (run.record.status, counts(db_alias)) == ("applied", [1])


def test_a_resume_between_a_release_and_the_next_look_is_not_lost(run, db_alias, monkeypatch):
    (job,) = run.launch()
    release = shards.release

    def resumed(claim, **options):
        released = release(claim, **options)
        api.resume_all(db_alias)
        return released

    monkeypatch.setattr(shards, "release", resumed)
    run.perform(job, at(1, lambda: api.pause_all(db_alias)))

    assert (run.record.status, counts(db_alias)) == ("applied", [1])


def test_the_switch_leaves_events_and_is_turned_once(run, db_alias):
    run.launch()

    assert [api.pause_all(db_alias, reason="an incident", actor="ann") for _ in range(2)] == [True, False]
    assert (api.paused_all(db_alias).changed_by, api.paused_all(db_alias).reason) == ("ann", "an incident")
    assert [api.resume_all(db_alias, actor="ben") for _ in range(2)] == [True, False]

    assert api.paused_all(db_alias) is None
    events = Event.objects.using(db_alias).filter(verb__in=["pause-all", "resume-all"]).order_by("pk")
    assert list(events.values_list("key", "verb", "actor", "detail")) == [
        ("*", "pause-all", "ann", "an incident"),
        (KEY, "pause-all", "ann", "an incident"),
        ("*", "resume-all", "ben", ""),
        (KEY, "resume-all", "ben", ""),
    ]


def test_a_run_without_a_transaction_is_paused_with_everything(run, db_alias):
    run.migration.atomic = False
    (job,) = run.launch()

    run.perform(job, at(2, lambda: api.pause_all(db_alias)))

    assert run.rows == 8


# A stop after a part of the run.


def test_a_run_pauses_by_itself_after_its_rows(run, db_alias):
    api.launch(KEY, db_alias, stop_after_rows=10)
    run.perform(run.take())

    delivery = run.perform(run.take())

    assert delivery is None
    assert (run.rows, run.record.status, run.record.pace) == (10, "paused", {})
    event = Event.objects.using(db_alias).get(verb="pause")
    assert (event.actor, event.detail) == ("stop-after", "10 rows processed; a stop was requested")


def test_the_rows_of_a_stop_count_from_its_request(run, db_alias):
    (job,) = run.launch()
    run.perform(job, at(2, lambda: api.pause(KEY, db_alias)))

    api.stop_after(KEY, db_alias, rows=5)
    api.resume(KEY, db_alias)
    while get_backend().sent:
        run.perform(run.take())

    assert (run.rows, run.record.status) == (13, "paused")


def test_a_run_pauses_by_itself_after_its_time(run, db_alias):
    (job,) = run.launch()

    run.perform(job, at(2, lambda: api.stop_after(KEY, db_alias, time=dt.timedelta(microseconds=1))))

    assert (run.rows, run.record.status) == (8, "paused")
    assert Event.objects.using(db_alias).get(verb="pause").detail.startswith("the time is over")


def test_each_worker_processes_at_most_one_batch_more(shared, server_alias):
    api.launch(KEY, server_alias, stop_after_rows=5)
    shared.perform(shared.take())
    one, two, *_ = [shared.take() for _ in range(len(get_backend().sent))]
    other = claim(two)
    assert other
    pace = executor.job._pace(other, shared.migration.get_stages()[0])
    assert executor.job._may_continue(other, pace)  # before the first worker's batches

    shared.perform(one)

    assert shared.record.status == "paused"
    assert (shared.rows, pace.size) == (5, 4)


def test_a_stop_of_an_earlier_part_is_removed(run, db_alias):
    (job,) = run.launch()
    api.stop_after(KEY, db_alias, rows=5)
    api.stop_after(KEY, db_alias)

    run.perform(job)

    assert run.record.status == "applied"
