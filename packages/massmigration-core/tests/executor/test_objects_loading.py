"""Objects loaded without `Model.__init__`: equal to those that Django loads, and only if Django does no more."""

import datetime as dt
import uuid
from decimal import Decimal

import pytest
from django.apps.registry import Apps
from django.db import models
from django.db.models import F, QuerySet
from django.db.models.query import ModelIterable
from django.db.models.signals import post_init, pre_init

from massmigration.executor.objects import PlainIterable, loaded_plainly
from testsupport.testapp.keyed import Counted
from testsupport.testapp.models import CheapRestaurant, Everything, Item, Person, Place, Profile, Restaurant, Tag

VALUES = {
    "integer": -1,
    "decimal": Decimal("1.0000000000"),
    "float": 1.5,
    "boolean": True,
    "char": "a",
    "file": "a/b",
    "uuid": uuid.uuid5(uuid.NAMESPACE_URL, ""),
    "date": dt.date(2024, 1, 1),
    "time": dt.time(1, 2, 3),
    "at": dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    "duration": dt.timedelta(days=1),
    "binary": b"\0a",
    "json": {"a": [1, None]},
    "ip": "::1",
}
NARROWED = {
    "all": lambda queryset: queryset,
    "only": lambda queryset: queryset.only("json", "pk"),
    "defer": lambda queryset: queryset.defer("json"),
    "joined": lambda queryset: queryset.filter(place__note="here"),
    "sorted by another table": lambda queryset: queryset.order_by("place__note", "pk").distinct(),
}


@pytest.mark.parametrize("narrow", NARROWED.values(), ids=NARROWED)
def test_the_objects_and_the_sql_are_those_of_django(db_alias, narrow):
    place = Place.objects.using(db_alias).create(note="here")
    Everything.objects.using(db_alias).create(**VALUES, place=place)
    Everything.objects.using(db_alias).create(place=place)
    queryset = narrow(Everything.objects.using(db_alias).order_by("pk"))

    plain = loaded_plainly(queryset)

    assert plain._iterable_class is PlainIterable
    assert str(plain.query) == str(queryset.query)
    ours, theirs = list(plain), list(queryset)
    assert [known(obj) for obj in ours] == [known(obj) for obj in theirs]
    assert len(ours) == 2
    assert ours[0].json == theirs[0].json  # loaded now if it was deferred
    assert ours[0].place == place
    assert ours[0].file.url


def known(obj):
    """Return the class, the attributes in their order, and the state of an object."""
    values = dict(vars(obj))
    state = vars(values.pop("_state"))
    return type(obj), list(values.items()), {name: value for name, value in state.items() if name != "fields_cache"}


def test_a_changed_object_is_saved_and_a_new_relation_replaces_the_old(db_alias):
    old, new = (Place.objects.using(db_alias).create(note=note) for note in ("old", "new"))
    Person.objects.using(db_alias).create(name="a", home=old)

    (person,) = loaded_plainly(Person.objects.using(db_alias))
    assert person.home == old
    person.home_id = new.pk
    assert person.home == new
    person.save()

    assert Person.objects.using(db_alias).get().home == new
    person.refresh_from_db()
    person.delete()
    assert not Person.objects.using(db_alias).exists()


def made(name, *bases, **attributes):
    """Return a model in a registry of its own."""
    meta = type("Meta", (), {"app_label": "testapp", "apps": Apps()})
    return type(name, bases or (Counted,), {"__module__": __name__, "Meta": meta, **attributes})


class Looks:
    """A mixin of some library."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = True


class Follows:
    def __setattr__(self, name, value):
        super().__setattr__(name, value)


class Trimming(models.query_utils.DeferredAttribute):
    def __set__(self, obj, value):
        obj.__dict__[self.field.attname] = value.strip()


class TrimmedField(models.CharField):
    descriptor_class = Trimming


class Eager(QuerySet):
    def _fetch_all(self):
        super()._fetch_all()
        for obj in self._result_cache:
            obj.seen = True


class Telling(ModelIterable):
    pass


def telling(queryset):
    queryset._iterable_class = Telling
    return queryset


SPECIAL_MODELS = {
    "__init__": lambda: made("Looking", Looks, Counted),
    "__init__ behind Model": lambda: made("Behind", Counted, Looks),
    "__setattr__": lambda: made("Following", Follows, Counted),
    "__new__": lambda: made("New", __new__=lambda cls, *args, **kwargs: object.__new__(cls)),
    "from_db": lambda: made("FromDb", from_db=classmethod(lambda cls, *args, **kwargs: cls())),
    "a descriptor": lambda: made("Trimmed", text=TrimmedField(max_length=10)),
    "parents": lambda: Restaurant,
    "parents of a proxy": lambda: CheapRestaurant,
}


@pytest.mark.parametrize("model", SPECIAL_MODELS.values(), ids=SPECIAL_MODELS)
def test_a_model_that_is_made_in_its_own_way_is_left_to_django(model):
    queryset = model()._base_manager.all()
    assert loaded_plainly(queryset) is queryset


PEERS = {"peers": lambda: Item.objects.fetch_mode(models.FETCH_PEERS)} if hasattr(models, "FETCH_PEERS") else {}
SPECIAL_QUERYSETS = {
    **PEERS,
    "select_related": lambda: Person.objects.select_related("home"),
    "prefetch_related": lambda: Tag.objects.prefetch_related("places"),
    "annotate": lambda: Item.objects.annotate(more=F("pk")),
    "extra": lambda: Item.objects.extra(select={"more": "1"}),
    "related manager": lambda: Place(pk=1).person_set.all(),
    "its own iterable": lambda: telling(Item.objects.all()),
    "its own fetching": lambda: Eager(Item),
}


@pytest.mark.parametrize("queryset", SPECIAL_QUERYSETS.values(), ids=SPECIAL_QUERYSETS)
def test_a_queryset_that_gives_its_objects_more_is_left_to_django(queryset):
    found = queryset()
    assert loaded_plainly(found) is found


@pytest.mark.parametrize("signal", [pre_init, post_init], ids=["pre_init", "post_init"])
def test_a_model_whose_making_somebody_listens_to_is_left_to_django(signal):
    def hear(**kwargs):
        """Do nothing."""

    queryset = Item.objects.all()
    assert loaded_plainly(queryset) is not queryset
    signal.connect(hear, sender=Item)
    try:
        assert loaded_plainly(queryset) is queryset
        assert loaded_plainly(Profile.objects.all())._iterable_class is PlainIterable
    finally:
        signal.disconnect(hear, sender=Item)
