import datetime as dt

import pytest

from massmigration import api
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import InvalidTransition
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.testapp.models import Item
from testsupport.threads import PATIENCE

KEY = "testapp:0003_by_fields"


@pytest.fixture
def items(db_alias, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.local.LocalBackend"
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(50))


def test_it_is_none_before_the_launch(db_alias):
    assert api.status(KEY, db_alias) is None


def test_it_tells_how_far_and_how_fast(db_alias, items):
    api.launch(KEY, db_alias)
    reading = api.wait(KEY, db_alias, timeout=PATIENCE, interval=0.01)

    assert (reading.status, reading.done, reading.total, reading.failed) == (Status.APPLIED, 50, 50, 0)
    assert reading.fraction == 1
    assert reading.rate == pytest.approx(50 / reading.elapsed.total_seconds())
    assert reading.seconds_left is None


def test_pauses_and_the_time_before_a_retry_do_not_count(db_alias):
    def ago(seconds):
        return DatabaseNow(dt.timedelta(seconds=-seconds))

    record = MigrationRecord.objects.using(db_alias).create(
        key=KEY, status=Status.RUNNING, started_at=ago(1000), is_planned=True
    )
    moves = [(1000, "running"), (990, "paused"), (500, "running"), (480, "failed"), (100, "queued"), (95, "")]
    for seconds, status in moves:
        Event.objects.using(db_alias).create(key=KEY, at=ago(seconds), verb="move", to_status=status)
    ShardRecord.objects.using(db_alias).create(
        record=record, attempt_id=record.attempt_id, stage=0, index=0, upper=[9], processed=260
    )

    assert 129 < api.status(KEY, db_alias).elapsed.total_seconds() < 160  # 10 and 20, and 100 until now
    assert 1.6 < api.status(KEY, db_alias).rate < 2.1


def test_waiting_ends_after_the_time_that_was_given(db_alias, items, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    api.launch(KEY, db_alias)

    with pytest.raises(TimeoutError, match=r"is still queued after 0\.02 s"):
        api.wait(KEY, db_alias, timeout=0.02, interval=0.01)


def test_there_is_nothing_to_wait_for_before_the_launch(db_alias):
    with pytest.raises(InvalidTransition, match=r"has no record on database .* Launch it first"):
        api.wait(KEY, db_alias)
