"""A table of models and querysets: each one is processed exactly once, or refused with a reason."""

import contextlib
import datetime as dt
import uuid
from decimal import Decimal

import pytest
from django.db.models import Count, F

from massmigration import api
from massmigration.exceptions import BadMigrationFile, BadQuerySet
from massmigration.migrations import MapperMigration
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.states import Status
from testsupport.clocks import Clock
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp import keyed
from testsupport.testapp.keyed import Blob, Folded, Ticket
from testsupport.testapp.models import (
    CheapRestaurant,
    Diner,
    Meaning,
    Moment,
    Person,
    Place,
    Price,
    Profile,
    Restaurant,
    Tag,
    Token,
    Word,
)

ROWS = 7
MANY = 1200
DAY = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
TEXTS = ["b", "A", "a b", "é", "%", "'", "Z"]
Pair = keyed.composite()
OWN = {Folded, Blob, Ticket, Pair}

KEYS = {
    "integer": (Place, lambda number: {}),
    "sparse-integer": (Place, lambda number: {"pk": (number - 3) * 10**12 + number}),
    "uuid": (Token, lambda number: {"pk": uuid.uuid5(uuid.NAMESPACE_DNS, str(number))}),
    "text": (Word, lambda number: {"pk": TEXTS[number]}),
    "text-without-case": (Folded, lambda number: {"pk": TEXTS[number]}),
    "decimal": (Price, lambda number: {"pk": Decimal((number - 3) ** 7) / 1000}),
    "datetime": (Moment, lambda number: {"pk": DAY + dt.timedelta(microseconds=3 ** (number + 5))}),
    "bytes": (Blob, lambda number: {"pk": bytes([255 - number, 0, 39, 92])}),
    "composite": (Pair, lambda number: {"left": number // 3, "right": str(number)}),
}


def related(db_alias):
    """Create places with a person, a profile and two tags each, restaurants of each kind, and words with a meaning."""
    places = [Place.objects.using(db_alias).create(name="place") for _ in range(ROWS)]
    Person.objects.using(db_alias).bulk_create(Person(name="person", home=place) for place in places)
    Person.objects.using(db_alias).bulk_create(Person(name="homeless") for _ in range(ROWS))
    Profile.objects.using(db_alias).bulk_create(Profile(place=place) for place in places)
    words = Word.objects.using(db_alias).bulk_create(Word(text=text) for text in TEXTS)
    Meaning.objects.using(db_alias).bulk_create(Meaning(word=word) for word in words)
    for name in ("old", "older"):
        Tag.objects.using(db_alias).create(name=name).places.set(places)
    for number in range(ROWS):
        Restaurant.objects.using(db_alias).create(name="restaurant", stars=number % 3)
        Diner.objects.using(db_alias).create(name="diner", stars=1)


RELATED = {
    "filter": (lambda: Place.objects.filter(name="place"), ROWS),
    "relation": (lambda: Person.objects.filter(home__name="place"), ROWS),
    "distinct": (lambda: Place.objects.filter(tag__name__startswith="old").distinct(), ROWS),
    "many-to-many": (lambda: Place.objects.filter(tag__name__startswith="old"), ROWS),
    "annotated-count": (lambda: Place.objects.annotate(tags=Count("tag")).filter(tags=2), ROWS),
    "nullable-select-related": (lambda: Person.objects.select_related("home"), 2 * ROWS),
    "select-related": (lambda: Profile.objects.select_related("place"), ROWS),
    "one-to-one-pk": (lambda: Profile.objects.all(), ROWS),
    "one-to-one-pk-to-a-text": (lambda: Meaning.objects.all(), ROWS),
    "one-to-one-pk-and-relation": (lambda: Profile.objects.filter(place__name="place"), ROWS),
    "inherited": (lambda: Restaurant.objects.all(), 2 * ROWS),
    "inherited-twice": (lambda: Diner.objects.all(), ROWS),
    "inherited-and-filtered-by-the-parent": (lambda: Restaurant.objects.filter(name="restaurant"), ROWS),
    "inherited-and-distinct": (lambda: Diner.objects.distinct(), ROWS),
    "inherited-and-deferred": (lambda: Diner.objects.only("has_jukebox"), ROWS),
    "proxy": (lambda: CheapRestaurant.objects.all(), 2 * ROWS),
    "proxy-and-filtered-by-the-parent": (lambda: CheapRestaurant.objects.filter(name="diner"), ROWS),
    "parent": (lambda: Place.objects.filter(restaurant__isnull=False), 2 * ROWS),
    "excluded-relation": (lambda: Place.objects.exclude(tag__name="old"), 2 * ROWS),
    "deferred": (lambda: Place.objects.defer("name"), 3 * ROWS),
    "ordered": (lambda: Place.objects.order_by("name", "-pk"), 3 * ROWS),
    "reversed": (lambda: Place.objects.order_by("name").reverse(), 3 * ROWS),
    "locked-by-the-user": (lambda: Place.objects.select_for_update(skip_locked=True), 3 * ROWS),
    "prefetched": (lambda: Place.objects.prefetch_related("tag_set"), 3 * ROWS),
    "none": (lambda: Place.objects.none(), 0),
}


def ticket(number):
    """Return the values of a ticket. Numbers and amounts have the reverse order of the keys; codes have another."""
    return {
        "pk": number + 1,
        "number": -number,
        "code": TEXTS[number],
        "amount": Decimal(100 - number) / 8,
        "note": "hidden" if number == 3 else "",
    }


TICKETS = {
    "custom-manager": (lambda: Ticket.visible.all(), None, ROWS - 1),
    "ordered-model": (lambda: Ticket.objects.all(), None, ROWS),
    "cursor": (lambda: Ticket.objects.all(), "number", ROWS),
    "cursor-of-text": (lambda: Ticket.visible.all(), "code", ROWS - 1),
    "cursor-by-constraint": (lambda: Ticket.objects.all(), "amount", ROWS),
    "cursor-and-only": (lambda: Ticket.objects.only("note"), "number", ROWS),
    "cursor-and-defer": (lambda: Ticket.objects.defer("number", "note"), "number", ROWS),
    "cursor-and-distinct": (lambda: Ticket.objects.distinct(), "number", ROWS),
    "cursor-that-is-the-key": (lambda: Ticket.objects.all(), "id", ROWS),
}

REFUSED = {
    "slice": (lambda: Place.objects.all()[:10], None, "a sliced queryset, which cannot be paged"),
    "union": (lambda: Place.objects.all().union(Place.objects.all()), None, "a union of querysets, which cannot be"),
    "values": (lambda: Place.objects.values("name"), None, "values() or values_list(), but operations need"),
    "distinct-on": (lambda: Place.objects.order_by("name").distinct("name"), None, "distinct() with fields"),
    "raw": (lambda: Place.objects.raw("SELECT 1"), None, "returned RawQuerySet; it must return a QuerySet"),
    "list": (list, None, "returned list; it must return a QuerySet"),
    "cursor-not-unique": (lambda: Place.objects.all(), "name", "names 'name' of testapp.Place, which is not unique"),
    "cursor-unique-of-some": (
        lambda: Ticket.objects.all(),
        "late",
        "names 'late' of testapp.Ticket, which is not unique",
    ),
    "cursor-null": (lambda: Person.objects.all(), "nick", "names 'nick' of testapp.Person, which may be null"),
    "cursor-missing": (lambda: Ticket.objects.all(), "cod", "testapp.Ticket does not have; it has: amount, code, data"),
    "cursor-of-relation": (
        lambda: Person.objects.all(),
        "home__id",
        "is 'home__id', which is a field of another model",
    ),
    "cursor-many-to-many": (
        lambda: Tag.objects.all(),
        "places",
        "names 'places' of testapp.Tag, which is not a column",
    ),
    "cursor-of-parent": (lambda: Restaurant.objects.all(), "id", "is in the table of the parent testapp.Place"),
    "cursor-json": (
        lambda: Ticket.objects.all(),
        "data",
        "names 'data' of testapp.Ticket, which is JSON and has no order",
    ),
    "cursor-of-several": (lambda: Ticket.objects.all(), ["code", "id"], "must be the name of one field"),
}


class Counting(MapperMigration):
    batch_size = 3

    def count(self, db_alias, objects):
        """Count in the database, on the table that has the column: MariaDB would not update it through a join."""
        model = type(objects[0])._meta.get_field("n").model
        for obj in objects:
            model._base_manager.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)


class ByObject(Counting):
    """Ends its batches early, after two of three objects."""

    clock = None

    def operation(self, obj, db_alias):
        self.clock.now += 0.5
        self.count(db_alias, [obj])


class ByFields(Counting):
    """Assigns an expression, which the database evaluates."""

    update_fields = ["n"]
    lock_rows = False

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1


class ByBatch(Counting):
    def operation_batch(self, queryset, db_alias):
        found = {obj.pk: obj for obj in queryset}
        if found:
            self.count(db_alias, list(found.values()))


WAYS = [ByObject, ByFields, ByBatch]


@pytest.fixture(autouse=True)
def shards(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    settings.MASSMIGRATION_BATCH_DURATION = dt.timedelta(seconds=1)
    monkeypatch.setattr(ByObject, "clock", Clock.installed(monkeypatch))
    monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 2)


@pytest.fixture
def tables(db_alias):
    with contextlib.ExitStack() as stack:
        yield lambda model: stack.enter_context(keyed.table(model, db_alias)) if model in OWN else None


def check_done_once(db_alias, monkeypatch, queryset, count, **attributes):
    """Check that each way to write a migration processes each object once."""
    attributes["get_queryset"] = lambda self, db_alias: queryset()
    rows = queryset().model._base_manager.using(db_alias).exclude(n=0)
    found = []
    for number, way in enumerate(WAYS):
        key = register(monkeypatch, type("Migration", (way,), attributes), f"900{number}_{way.__name__.lower()}")
        record = launch(key, db_alias)
        done = list(ShardRecord.objects.using(db_alias).filter(record_id=key).values_list("processed", flat=True))
        counts = [n for n, _ in {*rows.values_list("n", "pk")}]
        found.append((record.status, record.last_error, counts, sum(done), len(done) > 1))

    is_cut = db_alias != "default" and count > 0
    assert found == [(Status.APPLIED, "", [time] * count, count, is_cut) for time in (1, 2, 3)]


@pytest.mark.parametrize("key", KEYS)
def test_rows_with_keys_of_this_type_are_done_once(db_alias, tables, monkeypatch, key):
    model, values = KEYS[key]
    if model is None:
        pytest.skip("Composite primary keys came with Django 5.2.")
    tables(model)
    model.objects.using(db_alias).bulk_create(model(**values(number)) for number in range(ROWS))

    check_done_once(db_alias, monkeypatch, model.objects.all, ROWS)


@pytest.mark.skipif(Pair is None, reason="Composite primary keys came with Django 5.2.")
def test_more_keys_of_several_fields_than_a_condition_bears_are_done_once(db_alias, tables, monkeypatch):
    class Migration(Counting):
        batch_size = MANY
        update_fields = ["n"]
        on_error = "continue"
        max_failures = None
        max_failure_rate = 1
        is_broken = True

        def get_queryset(self, db_alias):
            return Pair.objects.distinct()

        def operation(self, obj, db_alias):
            obj.n = F("n") + 1 / (not self.is_broken or int(obj.right) % 50 == 0)

    tables(Pair)
    Pair.objects.using(db_alias).bulk_create(Pair(left=number, right=str(number)) for number in range(MANY))
    key = register(monkeypatch, Migration)

    failed = launch(key, db_alias)
    monkeypatch.setattr(Migration, "is_broken", False)
    api.retry(key, db_alias)

    assert failed.last_error == "1 176 failed objects"
    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED
    assert set(Pair.objects.using(db_alias).values_list("n", flat=True)) == {1}


@pytest.mark.parametrize("shape", RELATED)
def test_the_objects_of_this_queryset_are_done_once(db_alias, monkeypatch, shape):
    queryset, count = RELATED[shape]
    related(db_alias)

    check_done_once(db_alias, monkeypatch, queryset, count)


@pytest.mark.parametrize("name", TICKETS)
def test_objects_are_done_once_by_this_cursor(db_alias, tables, monkeypatch, name):
    queryset, cursor_field, count = TICKETS[name]
    tables(Ticket)
    Ticket.objects.using(db_alias).bulk_create(Ticket(**ticket(number)) for number in range(ROWS))

    check_done_once(db_alias, monkeypatch, queryset, count, cursor_field=cursor_field)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "stepwise"])
def test_a_batch_that_ends_early_goes_on_after_the_cursor_as_it_was_before_the_operation(
    db_alias, tables, monkeypatch, settings, atomic
):
    settings.MASSMIGRATION_SHARDS = 1

    class Moving(ByObject):
        update_fields = ["number", "n"]
        cursor_field = "number"

        def get_queryset(self, db_alias):
            return Ticket.objects.all()

        def operation(self, obj, db_alias):
            self.clock.now += 0.5
            obj.n = F("n") + 1
            obj.number += 1000

    tables(Ticket)
    Ticket.objects.using(db_alias).bulk_create(Ticket(**ticket(number)) for number in range(ROWS))
    Moving.atomic = atomic

    record = launch(register(monkeypatch, Moving), db_alias)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert list(Ticket.objects.using(db_alias).values_list("n", flat=True)) == [1] * ROWS


@pytest.mark.parametrize("name", REFUSED)
def test_this_is_refused_with_the_reason(db_alias, monkeypatch, name):
    queryset, cursor_field, reason = REFUSED[name]
    attributes = {"get_queryset": lambda self, db_alias: queryset(), "cursor_field": cursor_field}
    key = register(monkeypatch, type("Migration", (ByObject,), attributes))

    with pytest.raises((BadQuerySet, BadMigrationFile)) as caught:
        launch(key, db_alias)

    assert reason in str(caught.value)
    assert not MigrationRecord.objects.using(db_alias).exists()
