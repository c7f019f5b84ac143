import datetime as dt

import pytest
from django.db import connections, transaction

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.conf import settings as conf
from massmigration.dialects import dialect_of
from massmigration.dialects.base import Dialect
from massmigration.exceptions import BadMigrationFile, CannotMeasure
from massmigration.executor import adaptive_pace
from massmigration.executor import job as executor_job
from massmigration.executor.adaptive_pace import GENTLE, HOLD, MIN_SHARE, RISE, STEADY, LoadController, level_of
from massmigration.executor.batch_size import AdaptiveBatchSize
from massmigration.jobs import Job
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import MigrationRecord
from massmigration.pace import Pace
from massmigration.paging import sharding
from massmigration.recorder import pace as recorder_pace
from massmigration.recorder import shards
from massmigration.worker import perform
from testsupport.oracle import counts, make_items
from testsupport.testapp.models import Item
from testsupport.threads import Gate, in_thread, wait_until_blocked

KEY = "testapp:9005_steered"
FAST, SLOW = dt.timedelta(milliseconds=2), dt.timedelta(milliseconds=50)


class Steered(MapperMigration):
    batch_size = 4
    update_fields = ["n"]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        obj.n += 1


class Clock:
    seconds = 100.0

    def __call__(self):
        return self.seconds


class Claimed:
    """What a controller asks of a claim."""

    job = Job(kind="shard", key=KEY, db_alias="default", attempt_id="0" * 32, stage=0)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def alone(monkeypatch):
    """A database without replicas, for controllers that never reach one."""
    monkeypatch.setattr(Dialect, "lag_of_replicas", lambda self: None)
    monkeypatch.setattr(recorder_pace, "steer_workers", lambda job, change: None)


@pytest.fixture
def controller(clock, alone):
    return LoadController(STEADY, clock=clock)


def note(controller, clock, *commits, after=0.0, rows=100):
    for commit in commits:
        clock.seconds += after
        controller.note(Claimed, rows, commit)


def test_a_run_at_an_idle_server_has_all_the_time(controller, clock):
    note(controller, clock, *[FAST] * 20, after=1)

    assert controller.share == 1
    assert controller.pause_after(dt.timedelta(seconds=0.4)) == dt.timedelta(0)


def test_slow_commits_halve_the_share_and_fast_ones_raise_it_again(controller, clock):
    note(controller, clock, *[FAST] * 5, after=1)
    note(controller, clock, *[SLOW] * 3, after=1)  # the median of five is slow with the third

    assert controller.share == 0.5
    assert controller.pause_after(dt.timedelta(seconds=0.4)) == dt.timedelta(seconds=0.4)
    note(controller, clock, *[FAST] * 3, after=0)  # the median is fast again
    fallen = controller.share
    note(controller, clock, FAST, after=1)
    assert controller.share == pytest.approx(fallen + RISE)


def test_the_share_is_not_halved_again_before_an_effect_can_be_seen(controller, clock):
    note(controller, clock, *[FAST] * 5, after=1)
    note(controller, clock, *[SLOW] * 10, after=HOLD / 100)

    assert controller.share == 0.5


def test_the_share_has_a_minimum(controller, clock):
    note(controller, clock, *[FAST] * 5, after=1)
    note(controller, clock, *[SLOW] * 50, after=1)

    assert controller.share == MIN_SHARE
    assert controller.pause_after(dt.timedelta(seconds=5)) == dt.timedelta(seconds=adaptive_pace.LONGEST_PAUSE)


def test_commits_are_compared_with_those_of_batches_of_their_size(controller, clock):
    note(controller, clock, *[FAST] * 5, after=1, rows=10)
    note(controller, clock, *[SLOW] * 10, after=1, rows=10_000)

    assert controller.share == 1


def test_sessions_that_wait_for_a_batch_halve_the_share(controller, clock, monkeypatch):
    monkeypatch.setattr(Dialect, "blocked_sessions", lambda self: 1)

    controller.look("default")
    note(controller, clock, FAST, after=1)

    assert controller.share == 0.5
    note(controller, clock, FAST, after=1)  # nobody has looked since
    assert controller.share == 0.5 + RISE


@pytest.mark.parametrize(("lag", "share"), [(6, 0.5), (4, 1)])
def test_a_replica_that_lags_halves_the_share(clock, alone, monkeypatch, lag, share):
    monkeypatch.setattr(Dialect, "lag_of_replicas", lambda self: dt.timedelta(seconds=lag))
    controller = LoadController(STEADY, clock=clock)

    note(controller, clock, FAST, after=1)

    assert controller.share == share


def test_a_server_whose_lag_is_not_known_is_asked_once(clock, alone, monkeypatch):
    asked = []

    def refuse(self):
        asked.append(1)
        raise CannotMeasure("no replica")

    monkeypatch.setattr(Dialect, "lag_of_replicas", refuse)
    controller = LoadController(STEADY, clock=clock)

    note(controller, clock, *[FAST] * 5, after=10)

    assert (len(asked), controller.share) == (1, 1)


def test_fewer_workers_are_wanted_if_a_low_share_is_not_enough(clock, alone, monkeypatch):
    changes = []
    monkeypatch.setattr(recorder_pace, "steer_workers", lambda job, change: changes.append(change))
    controller = LoadController(STEADY, clock=clock)
    note(controller, clock, *[FAST] * 5, after=0.01)
    changes.clear()

    note(controller, clock, *[SLOW] * 20, after=1)

    assert set(changes) == {"fewer"}


def test_a_gentle_run_works_a_quarter_of_the_time(clock, alone):
    controller = LoadController(GENTLE, clock=clock)

    assert controller.pause_after(dt.timedelta(seconds=0.1)) == dt.timedelta(seconds=0.3)


def test_a_share_shortens_the_next_batches():
    size = AdaptiveBatchSize("default", size=100, max_size=1000, fixed_size=None, duration=dt.timedelta(seconds=0.02))

    size.take_share(0.5)

    assert size.size == 50
    size.take_share(1)
    assert size.size == 50  # it grows by what batches take


@pytest.mark.parametrize(
    ("operator", "own", "setting", "expected"),
    [
        (None, None, "steady", STEADY),
        (None, "gentle", "steady", GENTLE),
        ("full", "gentle", "steady", None),
        (None, None, "full", None),
    ],
)
def test_the_operator_counts_before_the_migration_and_the_migration_before_the_settings(
    settings, operator, own, setting, expected
):
    settings.MASSMIGRATION_PACE = setting
    migration = Steered(*KEY.split(":"))
    migration.pace = own

    assert level_of(migration.get_stages()[0], Pace(level=operator)) is expected


def test_another_level_is_refused():
    migration = Steered(*KEY.split(":"))
    migration.pace = "fast"

    with pytest.raises(BadMigrationFile, match="pace = 'fast'; allowed: 'gentle', 'steady', 'full', None"):
        migration.get_stages()


# On databases.


@pytest.fixture
def launched(settings):
    """Return a function that launches on a database, and returns the jobs of the shards."""
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    migration = Steered(*KEY.split(":"))

    def launch(db_alias, **attributes):
        make_items(db_alias, 24)
        vars(migration).update(attributes)
        api.launch(KEY, db_alias)
        sent = get_backend().sent
        perform(sent.pop(0)[0])
        return [Job.loads(sent.pop(0)[0]) for _ in range(len(sent))]

    with store.registered(migration):
        launch.migration = migration
        yield launch


def test_a_session_that_waits_for_this_transaction_is_counted(server_alias):
    make_items(server_alias, 1)
    gate = Gate()

    def hold():
        with transaction.atomic(using=server_alias):
            Item.objects.using(server_alias).update(n=1)
            before = dialect_of(server_alias).blocked_sessions()
            gate.wait()
            return before, dialect_of(server_alias).blocked_sessions()

    holder = in_thread(hold)
    gate.await_arrivals()
    waiter = in_thread(lambda: Item.objects.using(server_alias).update(n=2))
    wait_until_blocked(server_alias)
    gate.open()

    before, after = holder.result()
    assert after > 0
    if server_alias == "postgresql":  # the other servers count the waits of all sessions
        assert (before, after) == (0, 1)
    waiter.result()


@pytest.mark.parametrize("level", ["gentle", "steady"])
def test_a_run_that_gives_way_is_applied_exactly_once(db_alias, launched, monkeypatch, level):
    looked = []
    look = LoadController.look

    def noted(self, alias):
        looked.append(connections[alias].in_atomic_block)
        look(self, alias)

    monkeypatch.setattr(LoadController, "look", noted)
    jobs = launched(db_alias, pace=level)
    sent = get_backend().sent
    payloads = [job.dumps() for job in jobs]
    while payloads:
        perform(payloads.pop(0))
        payloads += [sent.pop(0)[0] for _ in range(len(sent))]

    assert (api.status(KEY, db_alias).status, counts(db_alias)) == ("applied", [1])
    assert set(looked) == {True}


def test_a_gentle_run_has_one_worker(server_alias, launched, monkeypatch, settings):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    settings.MASSMIGRATION_SHARDS = 4
    one, two, *_ = launched(server_alias, pace="gentle")
    stages = launched.migration.get_stages()

    def claim(job):
        return executor_job._claim(job, executor_job._at_most(job, stages))

    assert claim(one) is not None
    assert claim(two) is None
    api.set_pace(KEY, server_alias, level="steady")
    assert claim(two) is not None


def test_the_number_of_workers_is_halved_and_rises_by_one(server_alias, launched, monkeypatch, settings):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
    settings.MASSMIGRATION_SHARDS = 4
    jobs = launched(server_alias)
    assert all(shards.claim(job, "w") for job in jobs)
    seen = []
    for change in ("more", "fewer", "more", "more", "more"):
        recorder_pace.steer_workers(jobs[0], change)
        seen.append(MigrationRecord.objects.using(server_alias).get().pace.get("steered_workers"))

    assert seen == [None, 2, 3, 4, None]
    assert conf.SHARDS == 4
