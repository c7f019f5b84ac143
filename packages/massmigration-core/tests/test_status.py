import pytest

from massmigration import api
from massmigration.exceptions import InvalidTransition
from massmigration.states import Status
from testsupport.testapp.models import Item

KEY = "testapp:0003_by_fields"


@pytest.fixture
def items(db_alias, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.local.LocalBackend"
    Item.objects.using(db_alias).bulk_create(Item(name=str(number)) for number in range(50))


def test_it_is_none_before_the_launch(db_alias):
    assert api.status(KEY, db_alias) is None


def test_it_tells_how_far_and_how_fast(db_alias, items):
    api.launch(KEY, db_alias)
    reading = api.wait(KEY, db_alias, timeout=30, interval=0.01)

    assert (reading.status, reading.done, reading.total, reading.failed) == (Status.APPLIED, 50, 50, 0)
    assert reading.share == 1
    assert reading.rate == pytest.approx(50 / reading.elapsed.total_seconds())
    assert reading.seconds_left is None


def test_waiting_ends_after_the_time_that_was_given(db_alias, items, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    api.launch(KEY, db_alias)

    with pytest.raises(TimeoutError, match=r"is still queued after 0\.02 s"):
        api.wait(KEY, db_alias, timeout=0.02, interval=0.01)


def test_there_is_nothing_to_wait_for_before_the_launch(db_alias):
    with pytest.raises(InvalidTransition, match=r"has no record on database .*; launch it first"):
        api.wait(KEY, db_alias)
