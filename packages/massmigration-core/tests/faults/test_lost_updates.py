import threading

import pytest
from django.db import transaction
from django.db.models import F
from django.db.models.signals import pre_delete

from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, ShardRecord
from massmigration.operations import CopyModelData, DeleteModelData, OperationsMigration
from massmigration.operations.copy_rows import Insertion
from massmigration.recorder import shards
from massmigration.states import Status
from testsupport.concurrent_writers import elsewhere, wait_for_waiter
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.operations_app.models import Archived, Badge, Card, Person
from testsupport.oracle import make_items
from testsupport.testapp.models import Item, Place, Restaurant
from testsupport.threads import PATIENCE

ROWS = 30


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


class Places(MapperMigration):
    batch_size = 10

    def get_queryset(self, db_alias):
        return Place.objects.all()


def make_places(db_alias, count=ROWS):
    Place.objects.using(db_alias).bulk_create(Place(name=f"place {number}") for number in range(count))


def edit(db_alias):
    Place.objects.using(db_alias).filter(name="place 15").update(n=7)


def delete(db_alias):
    Place.objects.using(db_alias).filter(name="place 15").delete()


class Unedited(OperationsMigration):
    operations = [DeleteModelData("testapp.Place", lambda places: places.filter(n=0))]
    batch_size = ROWS


class Crossed(Places):
    """Lets another transaction change a row of the second batch between the batch's fetch and its write."""

    update_fields = ["note"]

    def operation(self, obj, db_alias):
        obj.note = "seen"
        if obj.name == "place 12":
            Crossed.other = elsewhere(lambda: self.interfere(db_alias))
            if self.lock_rows and self.atomic:
                wait_for_waiter(db_alias)
            else:
                self.other.join(PATIENCE)


def crossed(interference, **attributes):
    return type("Migration", (Crossed,), {"interfere": staticmethod(interference), **attributes})


VARIANTS = pytest.mark.parametrize(
    "attributes",
    [{}, {"lock_rows": False}, {"atomic": False}],
    ids=["locked", "unlocked", "stepwise"],
)


@VARIANTS
def test_a_concurrent_edit_of_another_column_is_kept(server_alias, monkeypatch, attributes):
    make_places(server_alias)

    record = launch(register(monkeypatch, crossed(edit, **attributes)), server_alias)

    Crossed.other.join(PATIENCE)
    place = Place.objects.using(server_alias).get(name="place 15")
    assert record.status == Status.APPLIED
    assert (place.n, place.note) == (7, "seen")
    assert Place.objects.using(server_alias).filter(note="seen").count() == ROWS


@VARIANTS
def test_a_concurrent_delete_is_kept(server_alias, monkeypatch, attributes):
    make_places(server_alias)

    record = launch(register(monkeypatch, crossed(delete, **attributes)), server_alias)

    Crossed.other.join(PATIENCE)
    shard = ShardRecord.objects.using(server_alias).get()
    assert record.status == Status.APPLIED
    assert Place.objects.using(server_alias).filter(note="seen").count() == ROWS - 1
    assert not Place.objects.using(server_alias).filter(name="place 15").exists()
    # With locks the delete waits until the batch is over.
    assert (shard.processed, shard.skipped) == ((ROWS - 1, 1) if attributes else (ROWS, 0))


def test_locked_rows_keep_a_save_from_overwriting_an_edit(server_alias, monkeypatch):
    class Saving(crossed(edit)):
        update_fields = None

        def operation(self, obj, db_alias):
            super().operation(obj, db_alias)
            obj.save()

    make_places(server_alias)

    launch(register(monkeypatch, Saving), server_alias)

    Crossed.other.join(PATIENCE)
    place = Place.objects.using(server_alias).get(name="place 15")
    assert (place.n, place.note) == (7, "seen")


@pytest.mark.parametrize("is_direct", [True, False], ids=["directly", "by-keys"])
def test_the_rows_of_an_inherited_model_are_locked_in_its_parents_table_too(server_alias, monkeypatch, is_direct):
    class Saving(crossed(edit)):
        update_fields = None

        def get_queryset(self, db_alias):
            return Restaurant.objects.all() if is_direct else Restaurant.objects.filter(name__startswith="place")

        def operation(self, obj, db_alias):
            super().operation(obj, db_alias)
            obj.save()

    for number in range(ROWS):
        Restaurant.objects.using(server_alias).create(name=f"place {number}")

    record = launch(register(monkeypatch, Saving), server_alias)

    Crossed.other.join(PATIENCE)
    place = Place.objects.using(server_alias).get(name="place 15")
    assert record.status == Status.APPLIED
    assert (place.n, place.note) == (7, "seen")


class Crossing:
    """A thread whose change must wait for the batch."""

    def __init__(self, call):
        self._call = call
        self.thread = None
        self.has_waited = False

    def go(self, db_alias):
        if self.thread is None:
            self.thread = elsewhere(lambda: self._call(db_alias))
            wait_for_waiter(db_alias)
            self.has_waited = self.thread.is_alive()


def test_a_row_that_is_about_to_be_deleted_is_not_edited_out_of_the_queryset(server_alias, monkeypatch):
    # The row is deleted by a cascade, whose rows Django reads first.
    make_places(server_alias)
    crossing = Crossing(edit)

    def interfere(**kwargs):
        crossing.go(server_alias)

    pre_delete.connect(interfere, sender=Place)
    try:
        record = launch(register(monkeypatch, Unedited), server_alias)
    finally:
        pre_delete.disconnect(interfere, sender=Place)

    crossing.thread.join(PATIENCE)
    assert (record.status, record.last_error, crossing.has_waited) == (Status.APPLIED, "", True)
    assert not Place.objects.using(server_alias).exists()


COPIES = {
    "statement": (Archived, {}),
    "two steps": (Badge, {"fields": [], "map": {"label": "name"}}),
    "objects": (Card, {"fields": [], "map": {"label": "name"}}),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_row_that_is_deleted_while_it_is_copied_is_deleted_from_the_copies_too(server_alias, monkeypatch, way):
    model, given = COPIES[way]
    Person.objects.using(server_alias).create(name="old")

    def delete_both(db_alias):
        Person.objects.using(db_alias).all().delete()
        model.objects.using(db_alias).all().delete()

    crossing, insert = Crossing(delete_both), Insertion.insert

    def interfered(self, queryset, db_alias):
        insert(self, queryset, db_alias)
        crossing.go(server_alias)

    monkeypatch.setattr(Insertion, "insert", interfered)
    migration = type("Migration", (OperationsMigration,), {"operations": [CopyModelData(Person, model, **given)]})

    record = launch(register(monkeypatch, migration), server_alias)

    crossing.thread.join(PATIENCE)
    assert (record.status, record.last_error, crossing.has_waited) == (Status.APPLIED, "", True)
    assert not Person.objects.using(server_alias).exists()
    assert not model.objects.using(server_alias).exists()


class Unseen(MapperMigration):
    """Has a queryset that contains only the objects that it has not changed yet."""

    def get_queryset(self, db_alias):
        return Item.objects.filter(note="")


class LeaveByObject(Unseen):
    def operation(self, obj, db_alias):
        obj.note = "seen"
        obj.n = F("n") + 1
        obj.save(update_fields=["note", "n"])


class LeaveByFields(Unseen):
    update_fields = ["note", "n"]

    def operation(self, obj, db_alias):
        obj.note = "seen"
        obj.n += 1


class LeaveByBatch(Unseen):
    def operation_batch(self, queryset, db_alias):
        queryset.update(note="seen", n=F("n") + 1)


@pytest.mark.parametrize(
    ("way", "rows"),
    [(LeaveByObject, 1000), (LeaveByFields, 20_000), (LeaveByBatch, 20_000)],
    ids=["object", "fields", "batch"],
)
def test_rows_that_leave_the_queryset_are_all_done_once(db_alias, monkeypatch, way, rows):
    make_items(db_alias, rows)

    record = launch(register(monkeypatch, way), db_alias)

    assert record.status == Status.APPLIED
    assert Item.objects.using(db_alias).filter(note="seen", n=1).count() == rows
    assert sum(ShardRecord.objects.using(db_alias).values_list("processed", flat=True)) == rows


class Inserting(Places):
    """Adds a row with the key `pk` in its second batch."""

    def operation(self, obj, db_alias):
        Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
        if obj.pk == 1015:
            Place.objects.using(db_alias).create(pk=self.pk, name="new")


@pytest.mark.parametrize(("pk", "n"), [(1, 0), (1025, 1), (5000, 0)], ids=["behind", "ahead", "beyond"])
def test_rows_added_ahead_of_the_cursor_are_done_and_no_others(db_alias, monkeypatch, pk, n):
    numbers = [*range(1000, 1020), *range(1030, 1040)]
    Place.objects.using(db_alias).bulk_create(Place(pk=number, name="old") for number in numbers)

    record = launch(register(monkeypatch, type("Migration", (Inserting,), {"pk": pk})), db_alias)

    assert record.status == Status.APPLIED
    assert list(Place.objects.using(db_alias).filter(name="old").values_list("n", flat=True)) == [1] * ROWS
    assert Place.objects.using(db_alias).get(name="new").n == n


class Visible(Places):
    def get_queryset(self, db_alias):
        return Place.objects.filter(note="")

    def operation(self, obj, db_alias):
        Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)


@pytest.fixture
def waited_for(server_alias, monkeypatch):
    """Let the first batch's fetch wait for a transaction that hides some rows and shows others."""
    holds, begin = threading.Event(), shards.raise_fence

    def change(hidden, shown):
        with transaction.atomic(using=server_alias):
            places = Place.objects.using(server_alias)
            places.filter(name__in=[f"place {number}" for number in hidden]).update(note="hidden")
            places.filter(name__in=[f"place {number}" for number in shown]).update(note="")
            holds.set()
            wait_for_waiter(server_alias)

    def arrange(hidden, shown=()):
        def begin_while_others_hold(claim):
            if not holds.is_set():
                elsewhere(lambda: change(hidden, shown))
                assert holds.wait(PATIENCE)
            return begin(claim)

        monkeypatch.setattr(shards, "raise_fence", begin_while_others_hold)

    return arrange


def done_once(db_alias):
    """Return the numbers of the places that were counted."""
    names = Place.objects.using(db_alias).filter(n=1).order_by("pk").values_list("name", flat=True)
    return [int(name.removeprefix("place ")) for name in names]


@pytest.mark.parametrize("count", [5, 10], ids=["some", "a-whole-batch"])
def test_rows_that_stop_matching_while_they_are_waited_for_are_passed_over(
    server_alias, monkeypatch, waited_for, count
):
    make_places(server_alias)
    waited_for(range(count))

    record = launch(register(monkeypatch, Visible), server_alias)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert done_once(server_alias) == list(range(count, ROWS))


def test_a_batch_of_which_nothing_is_left_does_not_end_the_shard(server_alias, monkeypatch, waited_for):
    # PostgreSQL returns no rows: the rows that match now did not match when it began to wait.
    make_places(server_alias, 10)
    Place.objects.using(server_alias).filter(name__in=["place 5", "place 6"]).update(note="hidden")
    waited_for(hidden=[0, 1, 2, 3, 4, 7, 8, 9], shown=[5, 6])

    record = launch(register(monkeypatch, Visible), server_alias)

    assert record.status == Status.APPLIED
    assert done_once(server_alias) == [5, 6]


def test_nothing_fails_when_every_row_is_deleted_meanwhile(db_alias, monkeypatch):
    class Emptying(Places):
        def operation_batch(self, queryset, db_alias):
            Place.objects.using(db_alias).all().delete()

    make_places(db_alias)

    record = launch(register(monkeypatch, Emptying), db_alias)

    assert record.status == Status.APPLIED
    assert not FailedObject.objects.using(db_alias).exists()
