import pytest
from django.db.models import F

from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry, unresolved
from testsupport.testapp.models import Place

ROWS = 25


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


class BadName(Exception):
    pass


def count_once(db_alias, **condition):
    Place.objects.using(db_alias).filter(**condition).update(n=F("n") + 1)


class Places(MapperMigration):
    batch_size = 10

    def get_queryset(self, db_alias):
        return Place.objects.all()


class ByObject(Places):
    def operation(self, obj, db_alias):
        if obj.name == "bad":
            raise BadName(f"{obj.pk} is bad")
        obj.n = F("n") + 1
        obj.save()


class ByFields(Places):
    update_fields = ["note"]

    def operation(self, obj, db_alias):
        if obj.name == "bad":
            raise BadName(f"{obj.pk} is bad")
        obj.note = "seen"
        count_once(db_alias, pk=obj.pk)


class ByWrite(ByFields):
    """Assigns a value that cannot be written; the operation itself does not raise."""

    def operation(self, obj, db_alias):
        obj.note = "far too long for its column" if obj.name == "bad" else "seen"
        if obj.name != "bad":
            count_once(db_alias, pk=obj.pk)


class ByBatch(Places):
    def operation_batch(self, queryset, db_alias):
        bad = queryset.filter(name="bad").first()
        if bad is not None:
            raise BadName(f"{bad.pk} is bad")
        queryset.update(n=F("n") + 1)


def make(db_alias, *bad, count=ROWS):
    """Return the places' pks; those at the positions `bad` have the bad name."""
    names = ["bad" if position in bad else "good" for position in range(count)]
    Place.objects.using(db_alias).bulk_create(Place(name=name) for name in names)
    return list(Place.objects.using(db_alias).order_by("pk").values_list("pk", flat=True))


def repair_rows(db_alias, **condition):
    Place.objects.using(db_alias).filter(name="bad", **condition).update(name="good")


def counts(db_alias):
    return list(Place.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def variant(migration_class, **attributes):
    return type("Migration", (migration_class,), attributes)


ways = pytest.mark.parametrize("way", [ByObject, ByFields, ByBatch], ids=["object", "fields", "batch"])
atomicity = pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
positions = pytest.mark.parametrize(
    ("position", "batch_size"), [(0, 10), (13, 10), (ROWS - 1, 10), (13, 1)], ids=["first", "middle", "last", "alone"]
)


@ways
@atomicity
@positions
def test_what_precedes_a_bad_object_is_committed(db_alias, monkeypatch, way, atomic, position, batch_size):
    pks = make(db_alias, position)
    key = register(monkeypatch, variant(way, atomic=atomic, batch_size=batch_size))

    record = launch(key, db_alias)

    # An operation on whole batches can continue object by object only if the batch can be rolled back.
    done = position if atomic or way is not ByBatch else position // batch_size * batch_size
    shard = ShardRecord.objects.using(db_alias).get()
    assert (record.status, f"BadName: {pks[position]} is bad" in record.last_error) == (Status.FAILED, True)
    assert counts(db_alias) == [1] * done + [0] * (ROWS - done)
    assert (shard.cursor, shard.processed, shard.failed) == ([pks[done - 1]] if done else None, done, 1)
    assert not shard.is_done


@ways
@atomicity
@positions
def test_a_retry_resumes_at_the_mended_object(db_alias, monkeypatch, way, atomic, position, batch_size):
    make(db_alias, position)
    key = register(monkeypatch, variant(way, atomic=atomic, batch_size=batch_size))
    launch(key, db_alias)
    repair_rows(db_alias)

    record = retry(key, db_alias)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert counts(db_alias) == [1] * ROWS
    assert ShardRecord.objects.using(db_alias).get().processed == ROWS
    assert not FailedObject.objects.using(db_alias).filter(resolved_at=None).exists()


@ways
@atomicity
def test_a_failure_is_recorded_with_its_object(db_alias, monkeypatch, way, atomic):
    pks = make(db_alias, 13)

    launch(register(monkeypatch, variant(way, atomic=atomic)), db_alias)

    failure = unresolved(db_alias)
    assert failure.exception_class == f"{BadName.__module__}.BadName"
    assert failure.message == f"{pks[13]} is bad"
    assert "raise BadName" in failure.traceback
    assert failure.object_pk == ([pks[13]] if atomic or way is not ByBatch else None)


@atomicity
def test_a_value_that_cannot_be_written_is_its_objects_failure(server_alias, monkeypatch, atomic):
    pks = make(server_alias, 13)
    key = register(monkeypatch, variant(ByWrite, atomic=atomic))

    launch(key, server_alias)

    assert unresolved(server_alias).object_pk == [pks[13]]
    assert unresolved(server_alias).exception_class == "django.db.utils.DataError"
    assert (
        list(Place.objects.using(server_alias).filter(note="seen").order_by("pk").values_list("pk", flat=True))
        == pks[:13]
    )
    repair_rows(server_alias)
    assert retry(key, server_alias).status == Status.APPLIED
    assert Place.objects.using(server_alias).filter(note="seen").count() == ROWS


@ways
@atomicity
def test_a_failed_migration_is_not_applied_by_a_retry_that_changes_nothing(db_alias, monkeypatch, way, atomic):
    make(db_alias, 13)
    key = register(monkeypatch, variant(way, atomic=atomic))
    launch(key, db_alias)

    record = retry(key, db_alias)

    done = 13 if atomic or way is not ByBatch else 10
    assert record.status == Status.FAILED
    assert counts(db_alias) == [1] * done + [0] * (ROWS - done)
    assert FailedObject.objects.using(db_alias).filter(resolved_at=None).count() == 1
    assert FailedObject.objects.using(db_alias).count() == 2


@ways
@atomicity
def test_a_retry_meets_the_second_bad_object_of_a_batch(db_alias, monkeypatch, way, atomic):
    pks = make(db_alias, 13, 16)
    key = register(monkeypatch, variant(way, atomic=atomic))
    launch(key, db_alias)
    repair_rows(db_alias, pk=pks[13])

    record = retry(key, db_alias)

    assert record.status == Status.FAILED
    assert unresolved(db_alias).message == f"{pks[16]} is bad"
    repair_rows(db_alias)
    assert retry(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * ROWS


@ways
def test_a_bad_object_in_the_second_shard_stops_that_shard_alone(server_alias, monkeypatch, settings, way):
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 10)
    settings.MASSMIGRATION_SHARDS = 3
    pks = make(server_alias, 13, count=30)
    key = register(monkeypatch, variant(way, batch_size=4))

    launch(key, server_alias)

    # Jobs run one after the other here, and the third finds the record failed.
    shards = ShardRecord.objects.using(server_alias)
    assert list(shards.values_list("index", "is_done", "processed")) == [(0, True, 10), (1, False, 3), (2, False, 0)]
    assert (unresolved(server_alias).shard, unresolved(server_alias).object_pk) == (1, [pks[13]])
    repair_rows(server_alias)
    assert retry(key, server_alias).status == Status.APPLIED
    assert counts(server_alias) == [1] * 30


class Once(SimpleMigration):
    def operation(self, db_alias):
        count_once(db_alias, name="good")
        if Place.objects.using(db_alias).filter(name="bad").exists():
            raise BadName("some are bad")


@atomicity
def test_a_simple_migration_that_raises_fails_and_can_be_retried(db_alias, monkeypatch, atomic):
    make(db_alias, 0, count=2)
    key = register(monkeypatch, variant(Once, atomic=atomic))

    record = launch(key, db_alias)

    assert (record.status, record.last_error) == (Status.FAILED, "BadName: some are bad")
    assert (unresolved(db_alias).object_pk, unresolved(db_alias).message) == (None, "some are bad")
    assert counts(db_alias) == ([0, 0] if atomic else [0, 1])
    repair_rows(db_alias)
    assert retry(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == ([1, 1] if atomic else [1, 2])


class Unasked(ByObject):
    """Raises in `get_queryset`, from the call with the number `raises_from` to that with the number `raises_to`."""

    calls = raises_from = raises_to = 0

    def get_queryset(self, db_alias):
        type(self).calls += 1
        if self.raises_from <= self.calls <= self.raises_to:
            raise BadName("no queryset")
        return super().get_queryset(db_alias)


@atomicity
@pytest.mark.parametrize(("call", "is_planned"), [(1, False), (2, True)], ids=["at-plan", "at-shard"])
def test_a_queryset_that_raises_fails_the_migration(db_alias, monkeypatch, atomic, call, is_planned):
    make(db_alias)
    call += 1  # the first call is the check before the launch
    key = register(monkeypatch, variant(Unasked, atomic=atomic, raises_from=call, raises_to=call))

    record = launch(key, db_alias)

    assert (record.status, record.last_error) == (Status.FAILED, "BadName: no queryset")
    assert record.is_planned == is_planned
    assert retry(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * ROWS


class OnlyTogether(Places):
    def operation_batch(self, queryset, db_alias):
        queryset.update(n=F("n") + 1)
        if queryset.count() == 10:
            raise BadName("ten at once")


def test_an_error_that_only_a_whole_batch_shows_is_an_event(db_alias, monkeypatch):
    make(db_alias)

    record = launch(register(monkeypatch, OnlyTogether), db_alias)

    replays = Event.objects.using(db_alias).filter(verb="replay")
    assert record.status == Status.APPLIED
    assert counts(db_alias) == [1] * ROWS
    assert ["ten at once" in event.detail for event in replays] == [True, True]


def test_a_message_that_the_database_would_refuse_is_kept_readable(db_alias, monkeypatch):
    class Unspeakable(Places):
        def operation(self, obj, db_alias):
            raise BadName("nul \x00 and surrogate \ud800")

    make(db_alias, count=1)

    launch(register(monkeypatch, Unspeakable), db_alias)

    assert unresolved(db_alias).message == "nul \\x00 and surrogate \\ud800"
    assert MigrationRecord.objects.using(db_alias).get().status == Status.FAILED
