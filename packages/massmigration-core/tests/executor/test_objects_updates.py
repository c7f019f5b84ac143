import copy
import datetime as dt
import re

import pytest
from django.db import connections
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from massmigration.exceptions import BadMigrationFile
from massmigration.executor.objects import DirtyFields, PendingUpdates
from massmigration.migrations import MapperMigration
from massmigration.models import MigrationRecord
from massmigration.states import Status
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.models import Diner, Everything, Item, Person, Place, Tag

WRITES = r"(UPDATE|STRAIGHT_JOIN)\W+testapp_item"
LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc)


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def items(db_alias):
    Item.objects.using(db_alias).bulk_create(
        Item(name=f"item {number}", data={"list": [number]}) for number in range(6)
    )
    Item.objects.using(db_alias).update(touched_at=LONG_AGO)


def updates_of_items(db_alias, monkeypatch, operation, update_fields, queryset=Item.objects.all):
    """Run a mapper, and return the columns of each UPDATE of items."""

    class Migration(MapperMigration):
        def get_queryset(self, db_alias):
            return queryset()

        def operation(self, obj, db_alias):
            operation(obj)

    Migration.update_fields = update_fields
    with CaptureQueriesContext(connections[db_alias]) as queries:
        record = launch(register(monkeypatch, Migration), db_alias)
    assert (record.status, record.last_error) == (Status.APPLIED, "")
    updates = [query["sql"] for query in queries if re.search(WRITES, query["sql"])]
    return [set(re.findall(r"\b(name|slug|note|n|data|touched_at)[\"`]? = ", sql)) for sql in updates]


def one_in_three(value):
    def operation(item):
        item.slug = value if item.name in ("item 1", "item 4") else None

    return operation


def test_only_changed_fields_of_changed_rows_are_written(db_alias, items, monkeypatch):
    updates = updates_of_items(db_alias, monkeypatch, one_in_three("new"), ["slug", "note", "data"])

    assert updates == [{"slug"}]
    assert Item.objects.using(db_alias).filter(slug="new").count() == 2


def test_rows_with_different_changes_are_written_in_one_statement_for_each_set_of_fields(db_alias, items, monkeypatch):
    def operation(item):
        item.note = "seen"
        if item.name == "item 3":
            item.slug = "three"

    updates = updates_of_items(db_alias, monkeypatch, operation, ["slug", "note"])

    assert sorted(updates, key=len) == [{"note"}, {"slug", "note"}]
    assert Item.objects.using(db_alias).filter(note="seen").count() == 6
    assert Item.objects.using(db_alias).get(slug="three").name == "item 3"


@pytest.mark.parametrize("change", [lambda item: None, lambda item: setattr(item, "slug", None)], ids=["idle", "same"])
def test_nothing_is_written_when_nothing_changed(db_alias, items, monkeypatch, change):
    assert updates_of_items(db_alias, monkeypatch, change, ["slug", "note", "data", "touched_at"]) == []
    assert Item.objects.using(db_alias).filter(touched_at=LONG_AGO).count() == 6


def test_fields_that_are_not_declared_are_not_written(db_alias, items, monkeypatch):
    def operation(item):
        item.slug, item.note = "declared", "not declared"

    assert updates_of_items(db_alias, monkeypatch, operation, ["slug"]) == [{"slug"}]
    assert Item.objects.using(db_alias).filter(note="").count() == 6


def test_a_value_changed_in_place_is_seen(db_alias, items, monkeypatch):
    assert updates_of_items(db_alias, monkeypatch, lambda item: item.data["list"].append("new"), ["data"]) == [{"data"}]
    assert Item.objects.using(db_alias).get(name="item 5").data == {"list": [5, "new"]}


def test_a_field_that_sets_itself_is_written_with_the_others(db_alias, items, monkeypatch):
    updates = updates_of_items(db_alias, monkeypatch, one_in_three("new"), ["slug", "touched_at"])

    assert updates == [{"slug", "touched_at"}]
    assert Item.objects.using(db_alias).filter(touched_at=LONG_AGO).count() == 4


def test_a_field_that_sets_itself_is_left_alone_unless_declared(db_alias, items, monkeypatch):
    assert updates_of_items(db_alias, monkeypatch, one_in_three("new"), ["slug"]) == [{"slug"}]
    assert Item.objects.using(db_alias).filter(touched_at=LONG_AGO).count() == 6


def test_a_deferred_field_that_is_assigned_is_written(db_alias, items, monkeypatch):
    def operation(item):
        item.slug = item.name.upper()

    updates = updates_of_items(db_alias, monkeypatch, operation, ["slug", "note"], lambda: Item.objects.only("name"))

    assert updates == [{"slug"}]
    assert Item.objects.using(db_alias).filter(slug="ITEM 5").count() == 1


def test_deferred_fields_that_are_not_touched_are_neither_read_nor_written(db_alias, items, monkeypatch):
    updates = updates_of_items(db_alias, monkeypatch, lambda item: None, ["slug"], lambda: Item.objects.only("name"))

    assert updates == []


def changed(obj, names, operation):
    """Return the names of the fields that would be written."""
    updates = PendingUpdates()
    DirtyFields(type(obj), names, name="testapp:0001").process(obj, operation, updates)
    return [field.name for _, fields in updates._changed for field in fields]


def everything(**values):
    names = [field.attname for field in Everything._meta.concrete_fields if field.attname in values]
    return Everything.from_db("default", ["id", *names], [1, *(values[name] for name in names)])


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, True), (True, 1), (0, False), (1, 1.0), ([1], [1.0]), ({"a": 1}, {"a": True}), ([], {}), (None, []), ("1", 1)],
)
def test_json_that_python_takes_for_equal_is_not(before, after):
    assert changed(everything(json=before), ["json"], lambda obj: setattr(obj, "json", after)) == ["json"]


@pytest.mark.parametrize("value", [{"a": [1, {"b": None}]}, [], "text", 1, None, True])
def test_json_that_is_replaced_by_its_equal_is_not_written(value):
    obj = everything(json=value)

    assert changed(obj, ["json"], lambda obj: setattr(obj, "json", copy.deepcopy(value))) == []


@pytest.mark.parametrize("value", ["a.txt", "", None])
def test_a_file_that_is_only_looked_at_is_not_written(value):
    obj = everything(file=value, integer=1)

    assert changed(obj, ["file", "integer"], lambda obj: setattr(obj, "integer", bool(obj.file) + 5)) == ["integer"]
    assert changed(obj, ["file"], lambda obj: str(obj.file)) == []
    assert changed(everything(file=value), ["file"], lambda obj: str(obj.file)) == []


def test_a_file_that_is_replaced_is_written():
    assert changed(everything(file="a.txt"), ["file"], lambda obj: setattr(obj, "file", "b.txt")) == ["file"]


def test_a_foreign_key_is_seen_to_change_through_its_object():
    obj = everything(place_id=1)

    assert changed(obj, ["place"], lambda obj: setattr(obj, "place", Place(pk=2))) == ["place"]


def test_a_related_object_that_is_saved_after_it_was_assigned_is_a_change(db_alias):
    person = Person.objects.using(db_alias).create(name="Ann")
    updates = PendingUpdates()

    def move(obj):
        obj.home = Place(name="new")
        obj.home.save(using=db_alias)

    DirtyFields(Person, ["home"], name="x").process(person, move, updates)
    updates.write(db_alias)

    assert Person.objects.using(db_alias).get().home.name == "new"


def test_a_related_object_that_is_not_saved_is_refused_and_empties_nothing(db_alias):
    home = Place.objects.using(db_alias).create(name="old")
    person = Person.objects.using(db_alias).create(name="Ann", home=home)

    def move(obj):
        obj.home = Place(name="new")

    with pytest.raises(ValueError, match="unsaved related object 'home'"):
        DirtyFields(Person, ["home"], name="x").process(person, move, PendingUpdates())


@pytest.mark.parametrize(
    ("after", "names"), [(b"ab", []), (memoryview(b"ab"), []), (b"new", ["binary"]), (memoryview(b"new"), ["binary"])]
)
def test_bytes_in_a_memoryview_as_psycopg2_returns_them_are_compared_by_what_they_hold(after, names):
    obj = everything(binary=memoryview(b"ab"))

    assert changed(obj, ["binary"], lambda obj: setattr(obj, "binary", after)) == names
    assert changed(everything(binary=memoryview(b"ab")), ["binary", "json"], lambda obj: None) == []


def test_bytes_in_a_memoryview_are_written(db_alias):
    Everything.objects.using(db_alias).create(binary=b"old")
    obj = Everything.objects.using(db_alias).get()
    updates = PendingUpdates()

    obj.binary = memoryview(b"old")
    renew = lambda obj: setattr(obj, "binary", memoryview(b"new"))  # noqa: E731
    DirtyFields(Everything, ["binary"], name="x").process(obj, renew, updates)
    updates.write(db_alias)

    assert bytes(Everything.objects.using(db_alias).get().binary) == b"new"


def test_an_expression_is_a_change():
    assert changed(everything(integer=1), ["integer"], lambda obj: setattr(obj, "integer", F("integer") + 1)) == [
        "integer"
    ]


def test_fields_of_parents_can_be_declared():
    diner = Diner(pk=1, name="a", stars=1)

    assert changed(diner, ["name", "stars", "has_jukebox"], lambda obj: setattr(obj, "stars", 2)) == ["stars"]


@pytest.mark.parametrize(
    ("model", "names", "words"),
    [
        (Item, ["slugg"], "names 'slugg', which testapp.Item does not have; it has: data, id, n, name, note, slug"),
        (Item, ["id"], "names 'id', which is not a writable column of testapp.Item. Primary keys"),
        (Tag, ["places"], "names 'places', which is not a writable column of testapp.Tag"),
        (Place, ["person"], "names 'person', which is not a writable column of testapp.Place"),
        (Diner, ["restaurant_ptr"], "names 'restaurant_ptr', which is not a writable column of testapp.Diner"),
    ],
    ids=["unknown", "pk", "many-to-many", "reverse", "parent-link"],
)
def test_bad_update_fields_are_refused_with_the_reason(model, names, words):
    with pytest.raises(BadMigrationFile) as caught:
        DirtyFields(model, names, name="testapp:0001")

    assert f"update_fields of migration 'testapp:0001' {words}" in str(caught.value)


def test_bad_update_fields_are_refused_at_launch(db_alias, items, monkeypatch):
    class Migration(MapperMigration):
        update_fields = ["slugg"]

        def get_queryset(self, db_alias):
            return Item.objects.all()

        def operation(self, obj, db_alias):
            raise AssertionError

    with pytest.raises(BadMigrationFile, match="names 'slugg'"):
        launch(register(monkeypatch, Migration), db_alias)
    assert not MigrationRecord.objects.using(db_alias).exists()
