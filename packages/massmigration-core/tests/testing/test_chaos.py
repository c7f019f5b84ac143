import contextlib
import datetime as dt
import uuid
from pathlib import Path

import pytest
from django.core import mail
from django.db import DatabaseError
from django.db.models import F
from django.db.models.functions import Concat, Lower
from django.test import TestCase
from django.utils import timezone
from django.utils.text import slugify

from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.operations import AddFieldData, CopyModelData, OperationsMigration
from massmigration.testing import (
    ChaosMixin,
    assert_idempotent,
    assert_resumable,
    assert_survives,
    assert_tolerates,
    chaos,
)
from testsupport.marks import only_sqlite
from testsupport.testapp.models import Item, Person, Place

pytestmark = pytest.mark.slow

ROWS = 120


class Items(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()


class Counts(Items):
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        obj.n += 1


class SavesAll(Items):
    def operation_batch(self, queryset, db_alias):
        for obj in queryset:
            obj.slug = slugify(obj.name)
            obj.save()


class SavesRelated(MapperMigration):
    update_fields = ["nick"]

    def get_queryset(self, db_alias):
        return Person.objects.all()

    def operation(self, obj, db_alias):
        obj.nick = slugify(obj.name)
        home = Place.objects.using(db_alias).get(pk=obj.home_id)
        home.n = 1
        home.save()


class SavesUnlocked(Items):
    lock_rows = False

    def operation(self, obj, db_alias):
        obj.slug = slugify(obj.name)
        obj.save()


class Mails(Items):
    update_fields = ["slug"]

    def operation(self, obj, db_alias):
        obj.slug = slugify(obj.name)
        mail.send_mail("A slug", obj.slug, None, ["ann@example.com"])


SERVICE = []


class CallsService(Items):
    """Calls something that the kit cannot see: the oracle counts."""

    update_fields = ["slug"]

    def operation(self, obj, db_alias):
        obj.slug = slugify(obj.name)
        SERVICE.append(obj.pk)


class ByPosition(Items):
    update_fields = ["n"]

    def operation(self, obj, db_alias):
        obj.n = 1 + Item.objects.using(db_alias).filter(n__gt=0).count()


class ByBatch(Items):
    def operation_batch(self, queryset, db_alias):
        queryset.update(n=queryset.count())


class Numbers(Items):
    update_fields = ["n"]
    last = 0

    def operation(self, obj, db_alias):
        type(self).last += 1
        obj.n = self.last


class SwallowsDatabase(Items):
    def operation(self, obj, db_alias):
        with contextlib.suppress(DatabaseError):
            Item.objects.using(db_alias).filter(pk=obj.pk).update(slug=slugify(obj.name))


class SwallowsValue(Items):
    update_fields = ["slug"]

    def operation(self, obj, db_alias):
        try:
            obj.slug = obj.name.lower()
        except ValueError:
            obj.slug = None


class Dates(Items):
    update_fields = ["slug"]

    def operation(self, obj, db_alias):
        obj.slug = f"{timezone.now():%Y-%m-%d} {dt.date.today()}"  # noqa: DTZ011


class Random(Items):
    update_fields = ["slug"]

    def operation(self, obj, db_alias):
        obj.slug = f"{uuid.uuid4()}"


class AddsStepwise(Items):
    """Not idempotent, and without the transaction that would make that harmless."""

    atomic = False

    def operation(self, obj, db_alias):
        Item.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)


FAULTY = [
    (Counts, "idempotent", chaos.NOT_IDEMPOTENT),
    (AddsStepwise, "kill", chaos.NOT_IDEMPOTENT),
    (SavesAll, "concurrent_edit", chaos.OVERWRITES),
    (SavesRelated, "concurrent_edit", chaos.OVERWRITES),
    (SavesUnlocked, "concurrent_delete", chaos.RESURRECTS),
    (Mails, "effects", chaos.EFFECT),
    (CallsService, "kill", chaos.EFFECT),
    (ByPosition, "order", chaos.ORDER),
    (ByBatch, "order", chaos.ORDER),
    (Numbers, "resumable", chaos.MEMORY),
    (SwallowsDatabase, "poison_row", chaos.SWALLOWS),
    (SwallowsValue, "poison_row", chaos.SWALLOWS),
    (Dates, "clock", chaos.CLOCK),
    (Random, "deterministic", chaos.RANDOM),
]


class Fields(Items):
    update_fields = ["slug"]

    def operation(self, obj, db_alias):
        obj.slug = slugify(obj.name)


class Saves(Items):
    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation(self, obj, db_alias):
        obj.slug = slugify(obj.name)
        obj.save()


class Batches(Items):
    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation_batch(self, queryset, db_alias):
        queryset.update(slug=Lower("name"))


class Operations(OperationsMigration):
    operations = [
        AddFieldData("testapp.Item", "slug", Concat("name", "note")),
        CopyModelData("testapp.Place", "testapp.Tag", fields=["name"]),
    ]


class Once(SimpleMigration):
    def operation(self, db_alias):
        Item.objects.using(db_alias).filter(n=0).update(n=5)


GOOD = [Fields, Saves, Batches, Operations, Once]


@pytest.fixture
def make_rows(db_alias):
    return lambda: make(db_alias)


def make(db_alias="default", count=ROWS):
    Item.objects.using(db_alias).bulk_create(Item(name=f"Item {n}", note="note") for n in range(count))
    Place.objects.using(db_alias).bulk_create(Place(name=f"p{n}") for n in range(20))
    places = list(Place.objects.using(db_alias).order_by("pk"))
    Person.objects.using(db_alias).bulk_create(Person(name=f"Ann {n}", home=places[n % 20]) for n in range(count))


def calls_of_service():
    found = len(SERVICE)
    SERVICE.clear()
    return found


def report_of(migration, make_rows, db_alias, **options):
    with pytest.raises(AssertionError) as caught:
        assert_survives(migration, make_rows=make_rows, db_alias=db_alias, **options)
    return str(caught.value)


@only_sqlite
@pytest.mark.parametrize(("migration", "check", "cause"), FAULTY, ids=lambda value: getattr(value, "__name__", ""))
def test_each_planted_fault_is_found_with_its_cause(db_alias, make_rows, migration, check, cause):
    oracle = calls_of_service if migration is CallsService else None

    report = report_of(migration, make_rows, db_alias, oracle=oracle)

    assert f"{cause} (found by: {check})" in report
    assert report.splitlines()[1].startswith("1. ")


@only_sqlite
@pytest.mark.parametrize("migration", GOOD)
def test_good_migrations_survive(db_alias, make_rows, migration):
    report = assert_survives(migration, make_rows=make_rows, db_alias=db_alias)

    assert report.problems == []
    assert len(report.passed) + len(report.not_tested) == 13


def test_a_lost_edit_is_found_on_every_database(db_alias, make_rows):
    with pytest.raises(AssertionError, match="overwrote a concurrent edit") as caught:
        assert_tolerates(SavesAll, "concurrent_edit", make_rows=make_rows, db_alias=db_alias)

    assert "name was set to 'edited meanwhile' while the migration ran" in str(caught.value)


def test_a_good_migration_tolerates_kills_and_bad_rows_on_every_database(db_alias, make_rows):
    report = assert_tolerates(Saves, "kill", "poison_row", make_rows=make_rows, db_alias=db_alias)

    assert report.passed == ["kill", "poison_row"]


def test_a_run_that_fails_without_a_fault_is_reported_alone(db_alias, make_rows):
    class Fails(Items):
        def operation(self, obj, db_alias):
            raise ValueError("always")

    report = report_of(Fails, make_rows, db_alias)

    assert "The run without faults is failed: ValueError: always" in report
    assert "Passed: nothing." in report


@only_sqlite
def test_a_restart_may_be_excluded(db_alias, make_rows):
    report = assert_survives(Counts, make_rows=make_rows, db_alias=db_alias, idempotent=False)

    assert "idempotent" not in report.passed


@only_sqlite
def test_the_parts_check_one_thing_each(db_alias, make_rows):
    options = {"make_rows": make_rows, "db_alias": db_alias}

    assert assert_resumable(Fields, **options).passed == ["resumable"]
    assert assert_idempotent(Fields, **options).passed == ["idempotent"]


@only_sqlite
def test_an_unknown_fault_is_refused(db_alias, make_rows):
    with pytest.raises(ValueError, match="Found the fault 'flood'; allowed: kill, duplicate_delivery, "):
        assert_tolerates(Fields, "flood", make_rows=make_rows, db_alias=db_alias)


@only_sqlite
def test_what_is_no_migration_is_refused(db_alias, make_rows):
    with pytest.raises(TypeError, match="allowed: a class of a migration, or its key such as 'shop:0001_slugs'"):
        assert_survives(Item, make_rows=make_rows, db_alias=db_alias)


class MixinTests(ChaosMixin, TestCase):
    def make_rows(self):
        make(count=60)

    def test_a_good_migration_survives_in_a_test_case(self):
        report = self.assert_survives(Fields)

        assert report.problems == []

    def test_a_lost_edit_is_found_in_a_test_case(self):
        with pytest.raises(AssertionError, match="overwrote a concurrent edit"):
            self.assert_tolerates(SavesAll, "concurrent_edit")

    def test_state_in_memory_is_found_in_a_test_case(self):
        with pytest.raises(AssertionError, match="keeps state in memory"):
            self.assert_resumable(Numbers)


@pytest.mark.massmigration_chaos(make_rows=lambda: make(count=60), idempotent=False)
def test_the_fixture_takes_its_options_from_the_marker(massmigration_chaos):
    report = massmigration_chaos.assert_survives(Counts)

    assert "idempotent" not in report.passed
    assert massmigration_chaos.assert_tolerates(Counts, "kill").passed == ["kill"]


def test_pytest_finds_the_plugin_by_its_entry_point():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()

    assert '[project.entry-points.pytest11]\nmassmigration = "massmigration.pytest_plugin"' in text
