import datetime as dt
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from django.db import OperationalError

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.backends.worker import perform_with
from massmigration.conf import settings as conf
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import CannotMeasure
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder import waits
from massmigration.states import Status
from massmigration.testing import run_migration
from massmigration.throttling import (
    CommitLatency,
    CompletedBatch,
    DiskSpace,
    LoadThrottle,
    LongTransactions,
    MaxReplicaLag,
    MaxRowsPerSecond,
    MaxThreadsRunning,
    OnlyBetween,
    Pause,
    Wait,
)
from testsupport.testapp.models import Item
from testsupport.threads import PATIENCE

KEY = "testapp:0002_by_object"
DUMMY = "massmigration.backends.dummy.DummyBackend"


def passed(**fields):
    defaults = {"key": KEY, "db_alias": "default", "rows": 100, "duration": dt.timedelta(seconds=1), "workers": 1}
    return CompletedBatch(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("batch", "seconds"),
    [
        (passed(rows=100), 1),
        (passed(rows=100, workers=3), 5),
        (passed(rows=10), 0),
    ],
    ids=["slower", "shared by workers", "slow enough"],
)
def test_rows_per_second_are_shared_by_all_workers(batch, seconds):
    assert MaxRowsPerSecond(50)(batch) == dt.timedelta(seconds=seconds)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"MaxRowsPerSecond\(0\): the limit must be greater than 0"):
        MaxRowsPerSecond(0)


@pytest.fixture
def throttled(db_alias, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DUMMY
    settings.MASSMIGRATION_BATCH_SIZE = 10
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(40))

    def run(throttle):
        monkeypatch.setattr(store.get(KEY), "throttle", [throttle])
        api.launch(KEY, db_alias)
        backend = get_backend()
        for _ in range(2):
            perform_with(backend.sent.pop(0)[0], backend)
        return backend.sent

    run.db_alias = db_alias
    return run


def test_a_long_wait_gives_the_worker_back_to_the_queue(db_alias, throttled):
    sent = throttled(lambda batch: dt.timedelta(seconds=30) if batch.rows else None)

    ((payload, delay),) = sent
    shard = ShardRecord.objects.using(db_alias).get()
    assert (Job.loads(payload).shard, delay) == (0, dt.timedelta(seconds=30))
    assert (shard.processed, shard.lease_token) == (10, None)
    assert shard.next_send_at - shard.heartbeat_at > dt.timedelta(seconds=60)


def test_a_short_wait_is_slept_through(db_alias, throttled):
    sent = throttled(lambda batch: dt.timedelta(milliseconds=1))

    assert sent == []
    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED


def test_a_throttle_is_told_of_the_batch(db_alias, throttled):
    told = []

    throttled(told.append)

    before, first = told[:2]
    assert (before.key, before.db_alias, before.rows, before.duration) == (KEY, db_alias, 0, dt.timedelta(0))
    assert (first.key, first.db_alias, first.rows, first.workers) == (KEY, db_alias, 10, 1)


def test_the_settings_throttles_count_for_every_migration(db_alias, throttled, settings):
    settings.MASSMIGRATION_THROTTLE = [lambda batch: dt.timedelta(seconds=40)]

    ((_, delay),) = throttled(lambda batch: dt.timedelta(seconds=30))

    assert delay == dt.timedelta(seconds=40)


def test_a_throttle_may_be_given_by_its_path(db_alias, throttled, settings, monkeypatch):
    monkeypatch.setattr("testsupport.inline_migrations.slow", lambda batch: dt.timedelta(seconds=50), raising=False)
    settings.MASSMIGRATION_THROTTLE = ["testsupport.inline_migrations.slow"]

    ((_, delay),) = throttled(lambda batch: None)

    assert delay == dt.timedelta(seconds=50)


def test_a_throttle_that_raises_slows_and_is_logged(db_alias, throttled, caplog, monkeypatch):
    monkeypatch.setattr("massmigration.executor.throttle.SHORT", dt.timedelta(0))

    throttled(lambda batch: 1 / 0)

    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED
    assert "ZeroDivisionError" in caplog.text


def test_a_throttle_that_is_not_there_slows_and_is_logged(db_alias, throttled, settings, caplog, monkeypatch):
    monkeypatch.setattr("massmigration.executor.throttle.SHORT", dt.timedelta(0))
    settings.MASSMIGRATION_THROTTLE = ["no.such.throttle"]

    throttled(lambda batch: None)

    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED
    assert f"Throttle 'no.such.throttle' of migration {KEY} raised." in caplog.text


def test_shards_that_wait_as_they_were_told_share_the_limit(db_alias):
    record = MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.RUNNING, is_planned=True)
    lease = conf.LEASE
    shards = [
        {"lease_until": DatabaseNow(lease)},  # at work
        {"lease_until": DatabaseNow(lease), "throttled_until": DatabaseNow(lease)},  # at work, and waits
        {"throttled_until": DatabaseNow(lease)},  # waits
        {"throttled_until": DatabaseNow(lease), "is_done": True},  # nobody may take another shard instead
        {},  # on its way
        {"throttled_until": DatabaseNow(-lease)},  # has waited
        {"lease_until": DatabaseNow(-lease)},  # abandoned
        {"lease_until": DatabaseNow(lease), "is_done": True},
    ]
    for index, shard in enumerate(shards):
        ShardRecord.objects.using(db_alias).create(
            record=record, attempt_id=record.attempt_id, stage=0, index=index, **shard
        )
    job = Job(kind=JobKind.SHARD, key=KEY, db_alias=db_alias, attempt_id=str(record.attempt_id))

    assert waits.active_workers(job).workers == 4


@pytest.mark.parametrize(
    ("now", "start", "end", "minutes"),
    [
        ("23:30", "22:00", "06:00", None),
        ("05:59", "22:00", "06:00", None),
        ("06:00", "22:00", "06:00", 16 * 60),
        ("21:59", "22:00", "06:00", 1),
        ("12:00", "09:00", "17:30", None),
        ("17:30", "09:00", "17:30", 15 * 60 + 30),
        ("08:00", "09:00", "17:30", 60),
    ],
)
def test_only_between_waits_until_the_period_begins(monkeypatch, now, start, end, minutes):
    hour, minute = map(int, now.split(":"))
    frozen(monkeypatch, dt.datetime(2026, 11, 28, hour, minute, tzinfo=ZoneInfo("Europe/Vienna")))

    wait = OnlyBetween(start, end, ZoneInfo("Europe/Vienna"))(passed(rows=0))

    reason = f"it is not between {start} and {end}"
    assert wait == (minutes and Wait(duration=dt.timedelta(minutes=minutes), reason=reason))


def test_a_period_begins_on_time_on_a_day_with_a_change_of_the_clock(monkeypatch):
    vienna = ZoneInfo("Europe/Vienna")
    frozen(monkeypatch, dt.datetime(2026, 3, 29, 1, 0, tzinfo=vienna))  # an hour before the clock skips one

    assert OnlyBetween("04:00", "06:00", vienna)(passed(rows=0)).duration == dt.timedelta(hours=2)


def test_the_time_zone_of_a_period_is_that_of_the_settings(monkeypatch, settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    frozen(monkeypatch, dt.datetime(2026, 11, 28, 14, 0, tzinfo=dt.timezone.utc))  # 23:00 in Tokyo

    assert OnlyBetween("22:00", "06:00")(passed(rows=0)) is None


def frozen(monkeypatch, now):
    class Frozen(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return now.astimezone(tz)

    monkeypatch.setattr("massmigration.throttling.dt", SimpleNamespace(**{**vars(dt), "datetime": Frozen}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("22", "22"), "'22' is not a time"),
        (("22:00", "25:00"), "'25:00' is not a time such as '22:00'"),
        (("22:00", None), "None is not a time"),
        (("22:00", "22:00"), "the two times must differ"),
        ((dt.time(1, tzinfo=dt.timezone.utc), "22:00"), "is not a time"),
    ],
)
def test_an_impossible_period_is_refused(given, message):
    if given == ("22", "22") and sys.version_info >= (3, 11):
        message = "the two times must differ"  # from 3.11 on, "22" is a time

    with pytest.raises(ValueError, match=f"OnlyBetween.*{message}"):
        OnlyBetween(*given)


class Load(LoadThrottle[int]):
    """A throttle whose measurement the test decides."""

    found: int | Exception | None = 0

    def measure(self, batch):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def describe(self, found):
        return f"the load is {found}"


def asked(throttle, found, **fields):
    throttle.found = found
    return throttle(passed(rows=0, **fields))


def test_a_load_up_to_the_limit_is_no_reason_to_wait():
    assert asked(Load(5), 5) is None
    assert asked(Load(5), 6) == Wait(duration=dt.timedelta(seconds=1), reason="the load is 6; the limit is 5")


def test_a_shard_that_has_waited_continues_at_the_lower_limit():
    throttle = Load(5, resume_at=2)

    assert asked(throttle, 3) is None
    assert asked(throttle, 3, is_waiting=True) == Wait(
        duration=dt.timedelta(seconds=5), reason="the load is 3; the migration continues at 2"
    )
    assert asked(throttle, 2, is_waiting=True) is None


@pytest.mark.parametrize(("limit", "shown"), [({"hours": 1}, "1 h 0 min"), ({"milliseconds": 50}, "0.05 s")])
def test_a_reason_gives_durations_for_people(monkeypatch, limit, shown):
    throttle = LongTransactions(dt.timedelta(**limit))
    monkeypatch.setattr(throttle, "measure", lambda batch: dt.timedelta(minutes=75))

    reason = f"a transaction has been open for 1 h 15 min; the limit is {shown}"
    assert throttle(passed(rows=0)).reason == reason


def test_where_there_is_nothing_to_measure_no_shard_waits():
    assert asked(Load(0), None) is None


@pytest.mark.parametrize("error", [CannotMeasure("no replica"), OperationalError("gone"), OSError("no file")], ids=repr)
def test_a_load_that_cannot_be_measured_is_a_reason_to_wait(error):
    wait = asked(Load(5, check_every=dt.timedelta(seconds=7)), error)

    assert wait == Wait(duration=dt.timedelta(seconds=7), reason=f"the server cannot be measured: {error}")


def test_too_many_threads_pause_a_migration(monkeypatch):
    throttle = MaxThreadsRunning(25, pause_at=50)
    found = 26
    monkeypatch.setattr(throttle, "measure", lambda batch: found)

    assert isinstance(throttle(passed(rows=0)), Wait)
    found = 51
    assert throttle(passed(rows=0)) == Pause(
        reason="51 sessions of the server execute statements; the limit for a pause is 50"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Load(-1), "Load: limit is -1; it must be a number, not negative"),
        (lambda: Load(True), "Load: limit is True; it must be a number"),
        (lambda: Load("5"), "Load: limit is '5'; it must be a number"),
        (lambda: Load(5, resume_at=6), "Load: resume_at is 6; it must be at most the limit, 5"),
        (lambda: Load(5, check_every=5), "Load: check_every is 5; it must be a timedelta greater than 0"),
        (lambda: MaxReplicaLag(5), "MaxReplicaLag: limit is 5; it must be a timedelta, not negative"),
        (lambda: MaxReplicaLag(dt.timedelta(-1)), "it must be a timedelta, not negative"),
        (lambda: MaxReplicaLag(dt.timedelta(1), aliases="replica"), "aliases is 'replica'; it must be a list"),
        (lambda: CommitLatency(20), "CommitLatency: limit is 20; it must be a timedelta greater than 0"),
        (lambda: MaxThreadsRunning(25, pause_at=20), "pause_at is 20; it must be at least the limit, 25"),
    ],
)
def test_impossible_limits_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_slow_commits_are_a_reason_to_wait():
    throttle = CommitLatency(dt.timedelta(milliseconds=20))
    slow, quick = dt.timedelta(milliseconds=50), dt.timedelta(milliseconds=1)

    durations = [slow, quick, slow, slow, slow, quick, None, quick, quick]
    waits = [throttle(passed(commit_duration=each)) for each in durations]

    reason = "a commit takes 0.05 s; the limit is 0.02 s"
    assert waits == [None] * 4 + [Wait(duration=dt.timedelta(seconds=5), reason=reason)] * 4 + [None]


def test_the_commits_of_each_migration_are_their_own():
    throttle = CommitLatency(dt.timedelta(milliseconds=20))
    slow = dt.timedelta(milliseconds=50)

    waits = [throttle(passed(key=key, commit_duration=slow)) for key in ["a:1", "b:1"] * 4]

    assert waits == [None] * 8


def test_a_full_disk_is_a_reason_to_wait(tmp_path):
    wait = DiskSpace(tmp_path, 0)(passed(rows=0))

    assert re.fullmatch(rf"[\d.]+% of the disk of {tmp_path} is used; the limit is 0", wait.reason)
    assert DiskSpace(tmp_path, 1)(passed(rows=0)) is None
    assert "cannot be measured" in DiskSpace(tmp_path / "missing", 1)(passed(rows=0)).reason


def test_a_replica_that_is_no_database_is_named():
    wait = MaxReplicaLag(dt.timedelta(1), aliases=["replica"])(passed(rows=0))

    assert wait.reason == "the server cannot be measured: there is no database 'replica' in DATABASES"


@pytest.mark.django_db
def test_run_migration_does_not_call_throttles(monkeypatch, settings):
    settings.MASSMIGRATION_THROTTLE = [lambda batch: pytest.fail("It was called.")]
    Item.objects.create(name="1")

    assert run_migration(KEY).status == Status.APPLIED


def test_settings_may_contain_throttles(tmp_path):
    (tmp_path / "with_throttle.py").write_text(
        "from massmigration.throttling import MaxThreadsRunning\n"
        "SECRET_KEY, INSTALLED_APPS = 'only for a test', ['massmigration']\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
        "MASSMIGRATION_THROTTLE = [MaxThreadsRunning(25)]\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "with_throttle"}

    subprocess.run([sys.executable, "-m", "django", "check"], env=environment, check=True, timeout=PATIENCE)
