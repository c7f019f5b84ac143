import pytest
from django.db.models import F

from massmigration import api
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.testapp.models import Item

KEY = "testapp:9001_continue"


class Base(MapperMigration):
    on_error = "continue"

    def get_queryset(self, db_alias):
        return Item.objects.all()


class ByObject(Base):
    def operation(self, obj, db_alias):
        fail_for(obj)
        Item.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)


class ByFields(Base):
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        fail_for(obj)
        obj.n = F("n") + 1


class ByBatch(Base):
    def operation_batch(self, queryset, db_alias):
        for obj in queryset:
            fail_for(obj)
        queryset.update(n=F("n") + 1)


def fail_for(obj):
    if obj.note == "bad":
        raise ValueError(f"{obj.name} is bad")


@pytest.fixture(params=[ByObject, ByFields, ByBatch])
def migrate(request, db_alias, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.immediate.ImmediateBackend"
    settings.MASSMIGRATION_BATCH_SIZE = 8

    def prepare(bad=(), **attributes):
        Item.objects.using(db_alias).bulk_create(
            Item(name=f"Item {number}", note="bad" if number in bad else "") for number in range(30)
        )
        return type("Migration", (request.param,), attributes)("testapp", "9001_continue")

    prepare.db_alias = db_alias
    return prepare


def counts(db_alias):
    return list(Item.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def record(db_alias):
    return MigrationRecord.objects.using(db_alias).get()


def totals(db_alias):
    shards = ShardRecord.objects.using(db_alias).all()
    return tuple(sum(getattr(shard, name) for shard in shards) for name in ("processed", "skipped", "failed"))


@pytest.mark.parametrize("atomic", [True, False])
def test_the_others_are_done_and_the_failed_are_recorded(db_alias, migrate, atomic):
    bad = [0, 7, 8, 29]

    with store.registered(migrate(bad, atomic=atomic, batch_size=8 if atomic else 1)):
        api.launch(KEY, db_alias)

    if atomic:
        assert counts(db_alias) == [int(number not in bad) for number in range(30)]
        assert (record(db_alias).status, record(db_alias).last_error) == (Status.FAILED, "4 failed objects")
        assert totals(db_alias) == (26, 0, 4)
    messages = FailedObject.objects.using(db_alias).order_by("pk").values_list("message", flat=True)
    assert messages[0] == "Item 0 is bad"


def test_a_retry_does_only_the_failed_objects_again(db_alias, migrate):
    with store.registered(migrate([3, 12, 20])):
        api.launch(KEY, db_alias)
        Item.objects.using(db_alias).update(note="")
        api.retry(KEY, db_alias)

    assert counts(db_alias) == [1] * 30
    assert record(db_alias).status == Status.APPLIED
    assert totals(db_alias) == (30, 0, 0)
    assert not FailedObject.objects.using(db_alias).filter(resolved_at=None).exists()


def test_an_object_that_fails_again_stays_recorded_once(db_alias, migrate):
    with store.registered(migrate([3, 12, 20])):
        api.launch(KEY, db_alias)
        Item.objects.using(db_alias).exclude(name="Item 12").update(note="")
        api.retry(KEY, db_alias)

        assert counts(db_alias) == [int(number != 12) for number in range(30)]
        assert (record(db_alias).status, record(db_alias).last_error) == (Status.FAILED, "1 failed object")
        assert totals(db_alias) == (29, 0, 1)
        assert FailedObject.objects.using(db_alias).filter(resolved_at=None).count() == 1
        assert FailedObject.objects.using(db_alias).count() == 3

        Item.objects.using(db_alias).update(note="")
        api.retry(KEY, db_alias)

    assert counts(db_alias) == [1] * 30
    assert record(db_alias).status == Status.APPLIED


def test_a_failed_object_that_was_deleted_counts_as_resolved(db_alias, migrate):
    with store.registered(migrate([3, 12])):
        api.launch(KEY, db_alias)
        Item.objects.using(db_alias).filter(note="bad").delete()
        api.retry(KEY, db_alias)

    assert record(db_alias).status == Status.APPLIED
    assert totals(db_alias) == (28, 2, 0)


def test_more_than_max_failures_stop_the_run_at_the_next(db_alias, migrate):
    with store.registered(migrate(range(5, 30), max_failures=3)):
        api.launch(KEY, db_alias)

        assert counts(db_alias) == [1] * 5 + [0] * 25
        assert record(db_alias).status == Status.FAILED
        assert "Item 8 is bad" in record(db_alias).last_error
        assert FailedObject.objects.using(db_alias).count() == 4

        Item.objects.using(db_alias).update(note="")
        api.retry(KEY, db_alias)

    assert counts(db_alias) == [1] * 30
    assert record(db_alias).status == Status.APPLIED
    assert totals(db_alias) == (30, 0, 0)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
@pytest.mark.parametrize("migrate", [ByObject], indirect=True)
def test_many_failures_in_a_row_stop_the_run(db_alias, migrate, atomic):
    limits = {"max_consecutive_failures": 7, "batch_size": 4, "atomic": atomic}
    bad = [0, 2, 3, 4, 5, 6, 7, *range(9, 30)]
    with store.registered(migrate(bad, **limits)):
        api.launch(KEY, db_alias)

        found = record(db_alias)
        assert found.status == Status.FAILED
        assert found.last_error.startswith(
            "7 consecutive objects failed (max_consecutive_failures = 7). The last failure: ValueError: Item 15 is bad"
        )
        assert counts(db_alias) == [int(number in (1, 8)) for number in range(30)]
        assert ShardRecord.objects.using(db_alias).get().consecutive_failures == 7

        Item.objects.using(db_alias).exclude(name="Item 15").update(note="")
        api.retry(KEY, db_alias)

        # The count starts from zero: one object that is still bad does not end the run.
        assert counts(db_alias) == [int(number != 15) for number in range(30)]
        assert (record(db_alias).status, record(db_alias).last_error) == (Status.FAILED, "1 failed object")


def test_values_that_cannot_be_written_count_as_failures_in_a_row(server_alias, settings):
    class Long(Base):
        atomic, batch_size, max_consecutive_failures = False, 4, 6
        update_fields = ["slug"]

        def operation(self, obj, db_alias):
            obj.slug = "x" * (200 if obj.note == "bad" else 3)

    settings.MASSMIGRATION_BACKEND = "massmigration.backends.immediate.ImmediateBackend"
    notes = ["bad"] * 3 + [""] + ["bad"] * 20
    Item.objects.using(server_alias).bulk_create(Item(name=f"Item {n}", note=note) for n, note in enumerate(notes))

    with store.registered(Long("testapp", "9001_continue")):
        api.launch(KEY, server_alias)

    assert record(server_alias).last_error.startswith("6 consecutive objects failed")
    assert Item.objects.using(server_alias).filter(slug="xxx").count() == 1
    assert FailedObject.objects.using(server_alias).count() == 9


def test_max_failures_of_zero_is_as_stop(db_alias, migrate):
    with store.registered(migrate([5], max_failures=0)):
        api.launch(KEY, db_alias)

    assert counts(db_alias) == [1] * 5 + [0] * 25


def test_a_restart_forgets_the_failures(db_alias, migrate):
    with store.registered(migrate([3])):
        api.launch(KEY, db_alias)
        Item.objects.using(db_alias).update(note="")
        api.restart(KEY, db_alias)

    assert counts(db_alias) == [int(number != 3) + 1 for number in range(30)]
    assert record(db_alias).status == Status.APPLIED
