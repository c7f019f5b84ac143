import random
import threading

import pytest
from django.db import OperationalError, connections, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat

from massmigration.executor.bisection import Bisection
from massmigration.migrations import BaseMigration, MapperMigration
from massmigration.models import Event, FailedObject, ShardRecord
from massmigration.operations import AddFieldData, OperationsMigration
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry
from testsupport.oracle import make_items, tally
from testsupport.testapp.models import Item, Person, Place
from testsupport.threads import PATIENCE

ROWS = 5000
BAD = [17, 2499, 4999]
MOST_EXTRA_CALLS = 80


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


class BadRow(Exception):
    pass


class Sets(MapperMigration):
    """Counts the calls in this process: what a call wrote may be rolled back."""

    on_error = "continue"
    calls = 0

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation_batch(self, queryset, db_alias):
        type(self).calls += 1
        bad = queryset.filter(note="bad").order_by("pk").first()
        if bad is not None:
            raise BadRow(f"{bad.name} is bad")
        queryset.update(n=F("n") + 1)


def variant(**attributes):
    return type("Migration", (Sets,), {"calls": 0, **attributes})


def spoil(db_alias, bad):
    """Make the items at these positions fail. Return the keys of all items."""
    pks = list(Item.objects.using(db_alias).order_by("pk").values_list("pk", flat=True))
    Item.objects.using(db_alias).filter(pk__in=[pks[place] for place in bad]).update(note="bad")
    return pks


def counts(db_alias):
    return list(Item.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


def failed(db_alias):
    """Return the keys of the failed objects that are not resolved."""
    return sorted(
        pk
        for (pk,) in FailedObject.objects.using(db_alias).filter(resolved_at=None).values_list("object_pk", flat=True)
    )


def run_bisection(count, bad):
    """Return the parts that passed, the rows that failed, and the number of calls."""
    bisection, passed, found, calls = Bisection(count), [], [], 0
    while (bounds := bisection.next_part()) is not None:
        calls += 1
        part = range(*bounds)
        if bad.isdisjoint(part):
            bisection.passed()
            passed += part
        else:
            bisection.failed()
            if len(part) == 1:
                found += part
    return passed, found, calls


@pytest.mark.parametrize("seed", range(30))
def test_every_row_is_tried_once_and_the_bad_ones_are_found(seed):
    rng = random.Random(seed)
    count = rng.randint(1, 300)
    bad = set(rng.sample(range(count), rng.randint(0, min(count, 8))))

    passed, found, calls = run_bisection(count, bad)

    assert passed == [row for row in range(count) if row not in bad]
    assert found == sorted(bad)
    assert calls <= max(2 * len(bad) * count.bit_length(), 2 * count.bit_length())


def test_the_rest_of_a_failed_part_is_not_tried_as_a_whole():
    passed, found, calls = run_bisection(1024, {1023})

    assert (len(passed), found, calls) == (1023, [1023], 11)


def test_nothing_is_tried_for_no_rows():
    assert Bisection(0).next_part() is None


@pytest.mark.parametrize("size", [ROWS, None], ids=["one-batch", "adaptive"])
def test_three_bad_rows_of_5000_take_fewer_than_80_calls(db_alias, monkeypatch, size, record_property):
    make_items(db_alias, ROWS)
    good = variant(batch_size=size)
    assert launch(register(monkeypatch, good, "9001_good"), db_alias).status == Status.APPLIED
    pks = spoil(db_alias, BAD)
    migration = variant(batch_size=size)

    record = launch(register(monkeypatch, migration), db_alias)

    extra = migration.calls - good.calls
    record_property("extra calls", extra)
    assert 0 < extra < MOST_EXTRA_CALLS
    assert counts(db_alias) == [1 if place in BAD else 2 for place in range(ROWS)]
    assert failed(db_alias) == [pks[place] for place in BAD]
    assert (record.status, record.last_error) == (Status.FAILED, "3 failed objects")
    shard = ShardRecord.objects.using(db_alias).get(record_id=record.key)
    assert (shard.processed, shard.failed, shard.is_done) == (ROWS - 3, 3, True)


def test_with_stop_everything_before_the_first_bad_row_is_committed(db_alias, monkeypatch):
    make_items(db_alias, 500)
    pks = spoil(db_alias, [321, 400])
    migration = variant(on_error="stop", batch_size=500)
    key = register(monkeypatch, migration)

    record = launch(key, db_alias)

    assert counts(db_alias) == [1] * 321 + [0] * 179
    assert failed(db_alias) == [pks[321]]
    assert record.last_error == f"BadRow: Item 321 is bad (object {pks[321]})"
    assert ShardRecord.objects.using(db_alias).get().cursor == [pks[320]]
    assert migration.calls < 20
    Item.objects.using(db_alias).update(note="")
    assert retry(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * 500
    assert tally(db_alias) == (500, 0, 0)


def test_a_retry_of_failed_rows_is_bisected_too(db_alias, monkeypatch):
    make_items(db_alias, 400)
    pks = spoil(db_alias, range(0, 400, 5))
    migration = variant(max_failures=None)
    key = register(monkeypatch, migration)
    launch(key, db_alias)
    Item.objects.using(db_alias).exclude(pk=pks[200]).update(note="")
    migration.calls = 0

    record = retry(key, db_alias)

    assert counts(db_alias) == [int(place != 200) for place in range(400)]
    assert (record.last_error, failed(db_alias)) == ("1 failed object", [pks[200]])
    assert migration.calls < 25
    assert tally(db_alias) == (399, 0, 1)


def test_rows_that_leave_the_queryset_are_seen_to_leave_it(db_alias, monkeypatch):
    class Leaving(Sets):
        def get_queryset(self, db_alias):
            return Item.objects.filter(slug=None)

        def operation_batch(self, queryset, db_alias):
            super().operation_batch(queryset, db_alias)
            queryset.update(slug="done")

    make_items(db_alias, 900)
    spoil(db_alias, [5, 700, 701])
    key = register(monkeypatch, Leaving)

    record = launch(key, db_alias)
    Item.objects.using(db_alias).update(note="")
    retried = retry(key, db_alias)

    assert record.last_error == "3 failed objects"
    assert retried.status == Status.APPLIED
    assert counts(db_alias) == [1] * 900
    assert not ShardRecord.objects.using(db_alias).filter(still_matched=True).exists()


def test_it_follows_a_cursor_field(db_alias, monkeypatch):
    class Nicks(MapperMigration):
        cursor_field, batch_size, on_error = "nick", 64, "continue"

        def get_queryset(self, db_alias):
            return Person.objects.exclude(nick=None)

        def operation_batch(self, queryset, db_alias):
            if queryset.filter(name="bad").exists():
                raise BadRow
            queryset.update(n=F("n") + 1)

    monkeypatch.setattr(Person._meta.get_field("nick"), "null", False)
    people = [Person(name="bad" if n in (3, 60) else "good", nick=f"{(n * 37) % 64:03}") for n in range(64)]
    Person.objects.using(db_alias).bulk_create(people)

    launch(register(monkeypatch, Nicks), db_alias)

    found = Person.objects.using(db_alias).order_by("pk").values_list("n", flat=True)
    assert list(found) == [int(place not in (3, 60)) for place in range(64)]
    assert tally(db_alias) == (62, 0, 2)


def test_a_row_that_a_join_repeats_is_processed_once(db_alias, monkeypatch):
    class Joined(MapperMigration):
        batch_size, on_error = 40, "continue"

        def get_queryset(self, db_alias):
            return Place.objects.filter(person__name__startswith="p")

        def operation_batch(self, queryset, db_alias):
            found = Place.objects.using(db_alias).filter(pk__in=queryset.values("pk"))
            if found.filter(name="bad").exists():
                raise BadRow
            pks = list(found.values_list("pk", flat=True))
            Place.objects.using(db_alias).filter(pk__in=pks).update(n=F("n") + 1)

    Place.objects.using(db_alias).bulk_create(Place(name="bad" if n == 11 else "good") for n in range(40))
    places = list(Place.objects.using(db_alias).order_by("pk"))
    Person.objects.using(db_alias).bulk_create(Person(name=f"p{n}", home=places[n % 40]) for n in range(80))

    launch(register(monkeypatch, Joined), db_alias)

    found = Place.objects.using(db_alias).order_by("pk").values_list("n", flat=True)
    assert list(found) == [int(place != 11) for place in range(40)]
    assert tally(db_alias) == (39, 0, 1)


def test_a_stage_of_its_own_is_bisected(db_alias, monkeypatch):
    class Staged(BaseMigration):
        backend_method = "run_mapper"

        def get_stages(self):
            sets = Sets(self.app_label, self.name)
            return [
                self.mapped(get_queryset=sets.get_queryset, operation_batch=sets.operation_batch, on_error="continue")
            ]

    make_items(db_alias, 200)
    pks = spoil(db_alias, [77])

    launch(register(monkeypatch, Staged), db_alias)

    assert failed(db_alias) == [pks[77]]
    assert counts(db_alias) == [int(place != 77) for place in range(200)]


def test_a_value_that_the_database_refuses_fails_its_row_alone(server_alias, monkeypatch):
    class Longer(MapperMigration):
        batch_size, on_error, calls = 1000, "continue", 0

        def get_queryset(self, db_alias):
            return Place.objects.all()

        def operation_batch(self, queryset, db_alias):
            type(self).calls += 1
            queryset.update(note=Concat("name", Value("0123456789")), n=F("n") + 1)

    names = ["a name that is long" if n in (10, 990) else "short" for n in range(1000)]
    Place.objects.using(server_alias).bulk_create(Place(name=name) for name in names)

    launch(register(monkeypatch, Longer), server_alias)

    found = Place.objects.using(server_alias).order_by("pk").values_list("n", flat=True)
    assert list(found) == [int(place not in (10, 990)) for place in range(1000)]
    kinds = FailedObject.objects.using(server_alias).values_list("exception_class", flat=True)
    assert set(kinds) == {"django.db.utils.DataError"}
    assert Longer.calls < 50


def test_a_duplicate_fails_its_row_alone(db_alias, monkeypatch):
    class Nicks(MapperMigration):
        batch_size, on_error = 100, "continue"

        def get_queryset(self, db_alias):
            return Person.objects.filter(nick=None)

        def operation_batch(self, queryset, db_alias):
            queryset.update(nick=F("name"), n=F("n") + 1)

    Person.objects.using(db_alias).create(name="taken", nick="p42")
    Person.objects.using(db_alias).bulk_create(Person(name=f"p{n}") for n in range(100))

    launch(register(monkeypatch, Nicks), db_alias)

    left = Person.objects.using(db_alias).filter(nick=None).values_list("name", "n")
    assert list(left) == [("p42", 0)]
    assert Person.objects.using(db_alias).filter(n=1).count() == 99
    (failure,) = FailedObject.objects.using(db_alias).all()
    assert failure.exception_class == "django.db.utils.IntegrityError"


def test_a_reference_that_is_checked_at_the_commit_fails_its_row_alone(db_alias, monkeypatch):
    class Homes(MapperMigration):
        batch_size, on_error = 64, "continue"

        def get_queryset(self, db_alias):
            return Person.objects.all()

        def operation_batch(self, queryset, db_alias):
            queryset.filter(name="bad").update(home_id=2**30)
            queryset.update(n=F("n") + 1)

    Person.objects.using(db_alias).bulk_create(Person(name="bad" if n == 33 else "good") for n in range(64))

    launch(register(monkeypatch, Homes), db_alias)

    found = Person.objects.using(db_alias).order_by("pk").values_list("n", flat=True)
    assert list(found) == [int(place != 33) for place in range(64)]
    assert tally(db_alias) == (63, 0, 1)


def test_a_ready_made_operation_is_bisected(db_alias, monkeypatch):
    class Filled(OperationsMigration):
        on_error = "continue"
        operations = [AddFieldData("testapp.Person", "nick", F("name"))]

    Person.objects.using(db_alias).create(name="taken", nick="p42")
    Person.objects.using(db_alias).bulk_create(Person(name=f"p{n}") for n in range(200))

    record = launch(register(monkeypatch, Filled), db_alias)

    assert record.last_error == "1 failed object"
    assert list(Person.objects.using(db_alias).filter(nick=None).values_list("name", flat=True)) == ["p42"]


def test_a_transient_error_in_a_part_is_retried_and_fails_no_row(db_alias, monkeypatch):
    class Refused(Sets):
        batch_size = 256
        refusals = 3

        def operation_batch(self, queryset, db_alias):
            if queryset.count() == 1 and self.refusals:  # at the good row before the bad one
                type(self).refusals -= 1
                raise OperationalError("the connection is closed") from PoolTimeout()
            super().operation_batch(queryset, db_alias)

    monkeypatch.setattr("massmigration.executor.errors.is_transient", is_refusal)
    make_items(db_alias, 256)
    pks = spoil(db_alias, [201])

    launch(register(monkeypatch, Refused), db_alias)

    assert Refused.refusals == 0
    assert failed(db_alias) == [pks[201]]
    assert counts(db_alias) == [int(place != 201) for place in range(256)]


class PoolTimeout(Exception):
    pass


def is_refusal(error):
    return isinstance(error.__cause__, PoolTimeout)


def test_a_deadlock_with_the_site_during_the_search_fails_no_row(server_alias, monkeypatch, caplog):
    make_items(server_alias, 64)
    pks = spoil(server_alias, [60])
    holds, victims = threading.Event(), []

    class Locking(Sets):
        batch_size = 64

        def operation_batch(self, queryset, db_alias):
            count = queryset.count()
            super().operation_batch(queryset, db_alias)
            if count == 32 and not site.is_alive() and not holds.is_set():
                site.start()  # it waits for a row of these, which are locked now
                assert holds.wait(PATIENCE)

    def write():
        try:
            with transaction.atomic(using=server_alias):
                outlive_deadlocks(server_alias)
                Item.objects.using(server_alias).filter(pk=pks[40]).update(slug="site")
                holds.set()
                Item.objects.using(server_alias).filter(pk=pks[3]).update(slug="site")
        except OperationalError as error:
            victims.append(error)
        finally:
            connections.close_all()

    site = threading.Thread(target=write)

    with caplog.at_level("WARNING", logger="massmigration"):
        launch(register(monkeypatch, Locking), server_alias)
        site.join(PATIENCE)

    assert victims == []
    assert "was refused" in caplog.text
    assert failed(server_alias) == [pks[60]]
    assert counts(server_alias) == [int(place != 60) for place in range(64)]


def outlive_deadlocks(db_alias):
    """Let the server end the other transaction: PostgreSQL the one that looks first, InnoDB the one that wrote less."""
    if connections[db_alias].vendor == "postgresql":
        with connections[db_alias].cursor() as cursor:
            cursor.execute("SET LOCAL deadlock_timeout = '10min'")
    else:
        Place.objects.using(db_alias).bulk_create(Place(name="ballast") for _ in range(1000))


def test_too_many_failures_stop_it_within_a_set(db_alias, monkeypatch):
    make_items(db_alias, 300)
    pks = spoil(db_alias, [10, 20, 30, 40])

    record = launch(register(monkeypatch, variant(batch_size=300, max_failures=2)), db_alias)

    assert record.last_error.startswith("More objects failed than max_failures = 2 allows")
    assert failed(db_alias) == [pks[10], pks[20], pks[30]]
    assert counts(db_alias) == [int(place < 30 and place not in (10, 20)) for place in range(300)]


def test_an_error_of_the_whole_set_alone_is_an_event(db_alias, monkeypatch):
    class OnlyTogether(Sets):
        batch_size = 64

        def operation_batch(self, queryset, db_alias):
            super().operation_batch(queryset, db_alias)
            if queryset.count() == 64:
                raise BadRow("64 at once")

    make_items(db_alias, 64)

    record = launch(register(monkeypatch, OnlyTogether), db_alias)

    assert record.status == Status.APPLIED
    assert counts(db_alias) == [1] * 64
    (event,) = Event.objects.using(db_alias).filter(verb="replay")
    assert event.detail == "A batch raised BadRow: 64 at once, but no part of it did when it was processed again."


def test_a_set_is_cut_short_when_its_time_is_up(db_alias, monkeypatch):
    make_items(db_alias, 100)
    pks = spoil(db_alias, [99])
    migration = variant(batch_size=100)
    monkeypatch.setattr("massmigration.executor.batch_size.AdaptiveBatchSize.is_over", lambda pace: True)

    launch(register(monkeypatch, migration), db_alias)

    assert counts(db_alias) == [1] * 99 + [0]
    assert failed(db_alias) == [pks[99]]
    assert tally(db_alias) == (99, 0, 1)


@pytest.mark.parametrize("sets", [True, False], ids=["sets", "objects"])
def test_a_run_of_which_most_objects_fail_is_stopped(db_alias, monkeypatch, sets):
    class Objects(MapperMigration):
        update_fields = ["n"]

        def get_queryset(self, db_alias):
            return Item.objects.all()

        def operation(self, obj, db_alias):
            if obj.note == "bad":
                raise BadRow(f"{obj.name} is bad")
            obj.n += 1

    make_items(db_alias, 400)
    spoil(db_alias, [place for place in range(400) if place % 5 > 1])
    options = {"on_error": "continue", "max_failures": None, "batch_size": 50}
    key = register(monkeypatch, type("Migration", (Sets if sets else Objects,), options))

    record = launch(key, db_alias)

    assert record.status == Status.FAILED
    assert record.last_error.startswith(
        "60 of the first 100 objects of shard 0 failed, 60% (max_failure_rate = 0.5), so the operation is probably "
        "wrong. The last failure: BadRow: Item 99 is bad"
    )
    assert sum(counts(db_alias)) == 40
    assert FailedObject.objects.using(db_alias).count() == 60

    Item.objects.using(db_alias).update(note="")
    assert retry(key, db_alias).status == Status.APPLIED
    assert counts(db_alias) == [1] * 400


@pytest.mark.parametrize(
    ("setting", "attribute", "is_stopped"),
    [(0.5, None, True), (0.7, None, False), (None, None, False), (0.1, 1, False), (None, 0.3, True)],
)
def test_the_rate_is_that_of_the_migration_or_the_setting(
    db_alias, monkeypatch, settings, setting, attribute, is_stopped
):
    settings.MASSMIGRATION_MAX_FAILURE_RATE = setting
    make_items(db_alias, 150)
    spoil(db_alias, [place for place in range(150) if place % 5 > 1])

    record = launch(register(monkeypatch, variant(max_failure_rate=attribute, max_failures=None)), db_alias)

    assert ("max_failure_rate" in record.last_error) is is_stopped
    assert (record.last_error == "90 failed objects") is not is_stopped


def test_few_objects_are_no_rate(db_alias, monkeypatch):
    make_items(db_alias, 99)
    spoil(db_alias, range(0, 99, 2))
    spoil(db_alias, range(1, 99, 4))

    record = launch(register(monkeypatch, variant(max_failures=None)), db_alias)

    assert record.last_error == "75 failed objects"
