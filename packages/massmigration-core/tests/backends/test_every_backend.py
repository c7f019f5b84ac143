import pytest

from massmigration import api
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.testapp.models import Call, Item
from testsupport.threads import PATIENCE

IMMEDIATE = "massmigration.backends.immediate.ImmediateBackend"
LOCAL = "massmigration.backends.local.LocalBackend"


@pytest.fixture(params=[IMMEDIATE, LOCAL], ids=["immediate", "local"])
def backend(request, settings):
    settings.MASSMIGRATION_BACKEND = request.param
    settings.MASSMIGRATION_BATCH_SIZE = 100
    return request.param


def make_items(db_alias, count=1000):
    Item.objects.using(db_alias).bulk_create(Item(name=f"Item {number}") for number in range(count))


def run(key, db_alias):
    from massmigration.backends.local import pool

    api.launch(key, db_alias, actor="code:test")
    assert pool.wait_until_idle(PATIENCE)


@pytest.mark.parametrize("name", ["0001_once", "0002_by_object", "0004_by_batch", "0005_two_stages"])
def test_every_row_is_counted_once(db_alias, backend, name):
    make_items(db_alias)

    run(f"testapp:{name}", db_alias)

    record = MigrationRecord.objects.using(db_alias).get()
    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert set(Item.objects.using(db_alias).values_list("n", flat=True)) == {1}


def test_changed_fields_are_written_back(db_alias, backend):
    make_items(db_alias)

    run("testapp:0003_by_fields", db_alias)

    record = MigrationRecord.objects.using(db_alias).get()
    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert Item.objects.using(db_alias).filter(slug__startswith="item-").count() == 1000
    assert Call.objects.using(db_alias).count() == 1000
    assert [shard.processed for shard in ShardRecord.objects.using(db_alias)] == [1000]
    verbs = Event.objects.using(db_alias).values_list("verb", flat=True)
    assert list(verbs) == ["launch", "plan", "applied"]


def test_an_empty_queryset_is_applied_at_once(db_alias, backend):
    run("testapp:0003_by_fields", db_alias)

    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED
