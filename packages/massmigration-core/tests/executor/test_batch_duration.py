"""Batches of slow objects, which end when their time is over. The next batch starts after the last object."""

import datetime as dt

import pytest
from django.db.models import F, Value

from massmigration import api
from massmigration.executor import processors
from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, ShardRecord
from massmigration.states import Status
from testsupport import oracle
from testsupport.clocks import Clock
from testsupport.concurrent_writers import elsewhere
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry
from testsupport.testapp.models import Call, Item, Place, Tag, Token

ROWS = 30
COST = 0.125
POSSIBLE = 4
"""Objects of which each takes `COST`, in the time of a batch."""


@pytest.fixture(autouse=True)
def clock(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_SIZE = 500
    settings.MASSMIGRATION_BATCH_DURATION = dt.timedelta(seconds=POSSIBLE * COST)
    clock = Clock.installed(monkeypatch)
    monkeypatch.setattr(Slow, "clock", clock)
    monkeypatch.setattr(Slow, "begun_at", {})
    return clock


class Slow(MapperMigration):
    """Notes for each object how many were done when its batch began, and counts it in the database."""

    cost = COST
    clock = None
    begun_at = {}

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def spend(self, obj, db_alias):
        self.clock.now += self.cost
        shards = ShardRecord.objects.using(db_alias).filter(is_done=False)
        self.begun_at[obj.pk] = sum(shard.processed + shard.skipped + shard.failed for shard in shards)

    def operation(self, obj, db_alias):
        self.spend(obj, db_alias)
        Call.objects.using(db_alias).create(migration=self.key, item=obj.pk)
        type(obj).objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)


class ByFields(Slow):
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        self.spend(obj, db_alias)
        Call.objects.using(db_alias).create(migration=self.key, item=obj.pk)
        obj.n = F("n") + 1


class Saving(Slow):
    def operation(self, obj, db_alias):
        self.spend(obj, db_alias)
        Call.objects.using(db_alias).create(migration=self.key, item=obj.pk)
        obj.n = F("n") + 1
        obj.save()


class Stepwise(Slow):
    atomic = False


class StepwiseByFields(ByFields):
    atomic = False


WAYS = [Slow, ByFields, Saving, Stepwise, StepwiseByFields]


def of(way, **attributes):
    return type("Migration", (way,), attributes)


def starts(way):
    return sorted(set(way.begun_at.values()))


def assert_done_once(db_alias, record, rows=ROWS):
    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert oracle.counts(db_alias) == [1]
    assert oracle.calls(db_alias) == oracle.rows(db_alias)
    assert oracle.tally(db_alias) == (rows, 0, 0)


@pytest.mark.parametrize("batch_size", [None, 20], ids=["adapting", "given"])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_slow_objects_ends_early_and_every_row_is_done_once(db_alias, monkeypatch, way, batch_size):
    oracle.make_items(db_alias, ROWS)

    record = launch(register(monkeypatch, of(way, batch_size=batch_size)), db_alias)

    assert starts(way) == list(range(0, ROWS, POSSIBLE))
    assert_done_once(db_alias, record)


@pytest.mark.parametrize("way", [ByFields, Stepwise])
def test_each_batch_does_one_object_at_least(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, 3)

    record = launch(register(monkeypatch, of(way, cost=60)), db_alias)

    assert starts(way) == [0, 1, 2]
    assert_done_once(db_alias, record, rows=3)


@pytest.mark.parametrize("way", [ByFields, StepwiseByFields])
def test_batches_grow_again_when_objects_take_less(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, ROWS)

    class Migration(way):
        def spend(self, obj, db_alias):
            super().spend(obj, db_alias)
            type(self).cost = COST if len(self.begun_at) < 2 * POSSIBLE else 0

    record = launch(register(monkeypatch, Migration), db_alias)

    assert starts(way) == [0, 4, 8, 12, 28]
    assert_done_once(db_alias, record)


@pytest.mark.parametrize("way", [Stepwise, StepwiseByFields])
def test_without_a_transaction_a_pause_holds_after_the_time_of_one_batch(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, ROWS)

    class Migration(way):
        def spend(self, obj, db_alias):
            super().spend(obj, db_alias)
            if len(self.begun_at) == 1:
                api.pause(self.key, db_alias)

    record = launch(register(monkeypatch, Migration), db_alias)

    assert (record.status, oracle.tally(db_alias)) == (Status.PAUSED, (POSSIBLE, 0, 0))


def test_throttles_are_told_of_what_was_done(db_alias, monkeypatch):
    oracle.make_items(db_alias, ROWS)
    told = []
    throttle = [lambda batch: told.append(batch.rows)]

    launch(register(monkeypatch, of(ByFields, throttle=throttle)), db_alias)

    assert [rows for rows in told if rows][:7] == [POSSIBLE] * 7


def fail_for(bad, way):
    """Return a subclass of `way` that raises for the items of these numbers."""

    class Failing(way):
        on_error = "continue"

        def spend(self, obj, db_alias):
            super().spend(obj, db_alias)
            if int(obj.name.split()[1]) in self.bad:
                raise ValueError("Not this one.")

    Failing.bad = bad
    return Failing


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_that_is_gone_through_object_by_object_ends_early_too(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, ROWS)

    record = launch(register(monkeypatch, fail_for({2, 9}, way)), db_alias)

    assert starts(way) == list(range(0, ROWS, POSSIBLE))
    assert (record.status, record.last_error) == (Status.FAILED, "2 failed objects")
    assert oracle.tally(db_alias) == (ROWS - 2, 0, 2)
    items = Item.objects.using(db_alias).order_by("pk")
    assert [item.n for item in items] == [int(number not in (2, 9)) for number in range(ROWS)]
    assert oracle.calls(db_alias) == [item.pk for item in items if item.n]


def test_a_replay_that_ended_early_is_not_called_one_that_found_nothing(db_alias, monkeypatch):
    oracle.make_items(db_alias, ROWS)

    class Migration(fail_for({6}, ByFields)):
        """Takes less time per object while the objects are processed as a batch."""

        cost = COST / 2
        failed = 0

        def spend(self, obj, db_alias):
            try:
                super().spend(obj, db_alias)
            except ValueError:
                type(self).cost = COST
                raise

    launch(register(monkeypatch, Migration), db_alias)

    assert "replay" not in oracle.verbs(db_alias)
    assert oracle.tally(db_alias) == (ROWS - 1, 0, 1)


@pytest.mark.parametrize("way", WAYS)
def test_failed_objects_that_take_long_are_done_again_once(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, 12)
    migration = fail_for(set(range(12)), way)
    key = register(monkeypatch, migration)
    assert launch(key, db_alias).status == Status.FAILED
    migration.bad, migration.cost = set(), 2 * COST
    in_another_order(db_alias)
    way.begun_at.clear()

    record = retry(key, db_alias)

    # Its batches have as many objects as were possible before.
    assert [[*way.begun_at.values()].count(start) for start in starts(way)] == [POSSIBLE // 2] * 6
    assert_done_once(db_alias, record, rows=12)
    assert not FailedObject.objects.using(db_alias).filter(resolved_at=None).exists()


def in_another_order(db_alias):
    """Reverse the order in which the objects failed."""
    failed = list(FailedObject.objects.using(db_alias).order_by("pk"))
    keys = [each.object_pk for each in failed]
    for each, key in zip(failed, reversed(keys), strict=True):
        FailedObject.objects.using(db_alias).filter(pk=each.pk).update(object_pk=key)


@pytest.mark.parametrize("way", [ByFields, StepwiseByFields])
def test_failed_objects_that_are_gone_count_as_skipped_once(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, 12)
    migration = fail_for(set(range(12)), way)
    key = register(monkeypatch, migration)
    launch(key, db_alias)
    migration.bad, migration.cost = set(), 2 * COST
    Item.objects.using(db_alias).filter(name__in=["Item 1", "Item 5", "Item 11"]).delete()

    record = retry(key, db_alias)

    assert (record.status, oracle.counts(db_alias)) == (Status.APPLIED, [1])
    assert oracle.tally(db_alias) == (9, 3, 0)


@pytest.mark.parametrize("vanished", [2, 6], ids=["before-the-cursor", "after-it"])
def test_a_row_that_vanished_before_it_was_locked_is_skipped_once(server_alias, monkeypatch, vanished):
    oracle.make_items(server_alias, ROWS)
    original = processors.hold

    def hold(queryset):
        if not hasattr(hold, "thread"):
            row = Item.objects.using(server_alias).filter(name=f"Item {vanished}")
            hold.thread = elsewhere(row.delete, wait=10)
        return original(queryset)

    monkeypatch.setattr(processors, "hold", hold)
    distinct = of(ByFields, get_queryset=lambda self, db_alias: Item.objects.distinct())

    record = launch(register(monkeypatch, distinct), server_alias)

    # An object that is read again for the next batch no longer exists.
    skipped = int(vanished < POSSIBLE)
    assert (record.status, oracle.counts(server_alias)) == (Status.APPLIED, [1])
    assert oracle.calls(server_alias) == oracle.rows(server_alias)
    assert oracle.tally(server_alias) == (ROWS - 1, skipped, 0)


def test_objects_that_a_join_brings_several_times_are_done_once(db_alias, monkeypatch):
    tags = [Tag.objects.using(db_alias).create(name="tag") for _ in range(3)]
    places = [Place.objects.using(db_alias).create(name=f"place {number}") for number in range(10)]
    for tag in tags:
        tag.places.set(places)
    joined = of(Slow, get_queryset=lambda self, db_alias: Place.objects.filter(tag__name="tag"))

    record = launch(register(monkeypatch, joined), db_alias)

    assert starts(Slow)[:2] == [0, 4]
    assert (record.status, oracle.tally(db_alias)) == (Status.APPLIED, (10, 0, 0))
    assert list(Place.objects.using(db_alias).values_list("n", flat=True)) == [1] * 10


@pytest.mark.parametrize("way", [ByFields, StepwiseByFields])
def test_a_batch_that_failed_says_nothing_of_the_next_ones_size(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, ROWS)
    migration = fail_for({2}, way)
    migration.on_error, migration.cost = "stop", 0

    record = launch(register(monkeypatch, migration), db_alias)

    assert record.status == Status.FAILED
    assert ShardRecord.objects.using(db_alias).get().batch_size in (0, 500)


class Leaving(Slow):
    """Has a queryset that processed objects leave."""

    update_fields = ["n", "note"]
    is_distinct = False

    def get_queryset(self, db_alias):
        found = Token.objects.filter(note="")
        return found.distinct() if self.is_distinct else found

    def operation(self, obj, db_alias):
        self.spend(obj, db_alias)
        obj.n = F("n") + 1
        obj.note = "done"


class LeavingByUpdate(Leaving):
    update_fields = None

    def operation(self, obj, db_alias):
        self.spend(obj, db_alias)
        Token.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1, note=Value("done"))


@pytest.mark.parametrize("is_distinct", [False, True], ids=["by-range", "by-keys"])
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
@pytest.mark.parametrize("way", [Leaving, LeavingByUpdate])
def test_objects_that_are_left_for_the_next_batch_are_not_taken_for_ones_that_stay(
    db_alias, monkeypatch, way, atomic, is_distinct
):
    Token.objects.using(db_alias).bulk_create(Token() for _ in range(10))
    key = register(monkeypatch, of(way, atomic=atomic, is_distinct=is_distinct))

    record = launch(key, db_alias)

    assert (record.status, oracle.tally(db_alias)[0]) == (Status.APPLIED, 10)
    assert set(Token.objects.using(db_alias).values_list("n", flat=True)) == {1}
    assert not ShardRecord.objects.using(db_alias).filter(still_matched=True).exists()


class FixedCost(MapperMigration):
    """Takes the same time for each batch, many times the target."""

    clock = None
    sizes = ()

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        self.clock.now += 8 * POSSIBLE * COST
        self.sizes.append(queryset.update(n=F("n") + 1))


def test_batches_do_not_shrink_to_one_row_where_that_saves_no_time(db_alias, monkeypatch, clock):
    oracle.make_items(db_alias, 200)
    sizes = []

    record = launch(register(monkeypatch, of(FixedCost, clock=clock, sizes=sizes)), db_alias)

    assert (record.status, oracle.counts(db_alias), sum(sizes)) == (Status.APPLIED, [1], 200)
    assert sizes == [10, 2, 4, 8, 16, 32, 64, 64]


def test_a_batch_of_objects_that_takes_long_to_be_read_gets_time_to_operate(db_alias, monkeypatch, clock):
    oracle.make_items(db_alias, ROWS)
    original = processors.ObjectProcessor.fetch

    def fetch(self, *args, **kwargs):
        clock.now += 8 * POSSIBLE * COST
        return original(self, *args, **kwargs)

    monkeypatch.setattr(processors.ObjectProcessor, "fetch", fetch)

    record = launch(register(monkeypatch, ByFields), db_alias)

    assert starts(ByFields) == [0, 8, 16, 24]
    assert_done_once(db_alias, record)
