import pytest
from django.db.models import Count, F

from massmigration.migrations import MapperMigration
from massmigration.models import ShardRecord
from massmigration.states import Status
from testsupport.adhoc import IMMEDIATE, launch, register
from testsupport.testapp.models import CheapRestaurant, Diner, Person, Place, Profile, Restaurant, Tag

ROWS = 12


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def world(db_alias):
    """Of each place a person, a profile and two tags; of each kind of restaurant as many."""
    places = [Place.objects.using(db_alias).create(name="place") for _ in range(ROWS)]
    Person.objects.using(db_alias).bulk_create(Person(name="person", home=place) for place in places)
    Person.objects.using(db_alias).bulk_create(Person(name="homeless") for _ in range(ROWS))
    Profile.objects.using(db_alias).bulk_create(Profile(place=place) for place in places)
    for name in ("old", "older"):
        Tag.objects.using(db_alias).create(name=name).places.set(places)
    for number in range(ROWS):
        Restaurant.objects.using(db_alias).create(name="restaurant", stars=number % 3)
        Diner.objects.using(db_alias).create(name="diner", stars=1)


def annotated():
    return Place.objects.annotate(tags=Count("tag")).filter(tags=2)


QUERYSETS = {
    "relation": (lambda: Person.objects.filter(home__name="place"), ROWS),
    "distinct": (lambda: Place.objects.filter(tag__name__startswith="old").distinct(), ROWS),
    "many-to-many": (lambda: Place.objects.filter(tag__name__startswith="old"), ROWS),
    "group-by": (annotated, ROWS),
    "nullable-select-related": (lambda: Person.objects.select_related("home"), 2 * ROWS),
    "select-related": (lambda: Profile.objects.select_related("place"), ROWS),
    "one-to-one-pk": (lambda: Profile.objects.all(), ROWS),
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
    "reversed": (lambda: Place.objects.order_by("name").reverse(), 3 * ROWS),
    "locked-by-the-user": (lambda: Place.objects.select_for_update(skip_locked=True), 3 * ROWS),
    "prefetched": (lambda: Place.objects.prefetch_related("tag_set"), 3 * ROWS),
    "none": (lambda: Place.objects.none(), 0),
}


def counted(db_alias, queryset):
    """How often each object was counted, and how many objects that were."""
    model = queryset.model
    return sorted({*model.objects.using(db_alias).exclude(n=0).values_list("n", "pk")})


class Counting(MapperMigration):
    batch_size = 5

    def count(self, queryset):
        """One statement on the table that has the column, which MariaDB would not update through a join."""
        pks = list(queryset.values_list("pk", flat=True))
        model = queryset.model._meta.get_field("n").model
        model.objects.using(queryset.db).filter(pk__in=pks).update(n=F("n") + 1)


class ByObject(Counting):
    def operation(self, obj, db_alias):
        self.count(type(obj).objects.using(db_alias).filter(pk=obj.pk))


class ByFields(Counting):
    """An expression in `update_fields` is added up in the database."""

    update_fields = ["n"]
    lock_rows = False

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1


class ByBatch(Counting):
    def operation_batch(self, queryset, db_alias):
        self.count(queryset)


@pytest.mark.parametrize("name", QUERYSETS)
@pytest.mark.parametrize("way", [ByObject, ByFields, ByBatch], ids=["object", "unlocked-fields", "batch"])
def test_each_object_of_a_queryset_is_done_once(db_alias, world, monkeypatch, name, way):
    queryset, count = QUERYSETS[name]
    migration_class = type("Migration", (way,), {"get_queryset": lambda self, db_alias: queryset()})

    record = launch(register(monkeypatch, migration_class), db_alias)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert [n for n, _ in counted(db_alias, queryset())] == [1] * count
    assert sum(ShardRecord.objects.using(db_alias).values_list("processed", flat=True)) == count
