import datetime as dt

import pytest

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.backends.worker import perform_with
from massmigration.conf import settings as conf
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder import waits
from massmigration.states import Status
from massmigration.throttling import CompletedBatch, MaxRowsPerSecond
from testsupport.testapp.models import Item

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
