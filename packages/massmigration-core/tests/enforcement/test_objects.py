import pytest
from asgiref.sync import async_to_sync
from django.db import connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from massmigration import record_cache
from massmigration.enforcement import aensure_migrated, ensure_migrated
from massmigration.exceptions import CannotEnsure
from massmigration.migrations import MapperMigration, SimpleMigration
from massmigration.models import MigrationRecord, ShardRecord
from testsupport import oracle
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.models import Item, Place, Profile
from testsupport.threads import PATIENCE, Gate, in_thread
from testsupport.worker_processes import wait_until


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


class Slugs(MapperMigration):
    batch_size = 3

    def get_queryset(self, db_alias):
        return Item.objects.filter(slug=None)

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.slug = obj.name.lower()
        obj.save()


class ByFields(Slugs):
    update_fields = ["n", "slug"]

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.slug = obj.name.lower()


class Joined(MapperMigration):
    """Has a queryset that cannot be locked directly."""

    def get_queryset(self, db_alias):
        return Profile.objects.filter(place__name="here", note="").distinct()

    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.note = "done"
        obj.save()


class Staying(Slugs):
    def operation(self, obj, db_alias):
        obj.n = F("n") + 1
        obj.save()


def get(db_alias, index=0):
    return Item.objects.using(db_alias).order_by("pk")[index]


@pytest.mark.parametrize("way", [Slugs, ByFields])
def test_an_object_is_done_on_the_spot_and_not_again_by_its_shard(db_alias, monkeypatch, way):
    oracle.make_items(db_alias, 5)
    key = register(monkeypatch, way)
    item = get(db_alias, 3)

    answers = [ensure_migrated(item, key), ensure_migrated(item, key)]
    record = launch(key, db_alias)

    assert (answers, item.n, item.slug) == ([True, False], 1, "item 3")
    assert (record.status, oracle.counts(db_alias), oracle.tally(db_alias)[0]) == ("applied", [1], 4)


def test_once_it_is_applied_nothing_is_asked(db_alias, monkeypatch):
    oracle.make_items(db_alias, 1)
    key = register(monkeypatch, Slugs)
    launch(key, db_alias)
    item = get(db_alias)
    ensure_migrated(item, key)

    with CaptureQueriesContext(connections[db_alias]) as captured:
        assert ensure_migrated(item, key) is False

    assert len(captured) == 0


def test_an_object_that_was_loaded_before_it_was_applied_is_read_again(db_alias, monkeypatch):
    oracle.make_items(db_alias, 1)
    key = register(monkeypatch, Slugs)
    item = get(db_alias)
    launch(key, db_alias)
    record_cache.clear()

    assert ensure_migrated(item, key) is False
    assert (item.n, item.slug) == (1, "item 0")


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_in_a_transaction_that_does_not_see_what_workers_commit_it_is_refused(server_alias, monkeypatch):
    oracle.make_items(server_alias, 1)
    key = register(monkeypatch, Slugs)
    monkeypatch.setattr(connections[server_alias], "isolation_level", "repeatable read")

    with transaction.atomic(using=server_alias), pytest.raises(CannotEnsure, match="may not see what workers"):
        ensure_migrated(get(server_alias), key)

    assert oracle.counts(server_alias) == [0]
    assert ensure_migrated(get(server_alias), key) is True


def test_it_can_be_awaited(db_alias, monkeypatch):
    oracle.make_items(db_alias, 1)
    key = register(monkeypatch, Slugs)
    item = get(db_alias)

    assert async_to_sync(aensure_migrated)(item, key) is True
    assert item.slug == "item 0"


def test_it_works_through_a_join(db_alias, monkeypatch):
    place = Place.objects.using(db_alias).create(name="here")
    profile = Profile.objects.using(db_alias).create(place=place)
    key = register(monkeypatch, Joined)

    assert [ensure_migrated(profile, key), ensure_migrated(profile, key)] == [True, False]
    assert (profile.n, profile.note) == (1, "done")


@pytest.mark.parametrize("way", [Slugs, ByFields])
def test_a_batch_waits_for_it_and_passes_over_the_object(server_alias, monkeypatch, way):
    oracle.make_items(server_alias, 3)
    key = register(monkeypatch, way)

    with transaction.atomic(using=server_alias):
        assert ensure_migrated(get(server_alias, 1), key) is True
        batch = in_thread(launch, key, server_alias)
        wait_until(lambda: ShardRecord.objects.using(server_alias).filter(lease_token__isnull=False).exists())
    record = batch.result(PATIENCE)

    assert (record.status, oracle.counts(server_alias)) == ("applied", [1])


def test_it_waits_for_a_batch_and_finds_the_object_done(server_alias, monkeypatch):
    oracle.make_items(server_alias, 3)
    gate = Gate()

    class Held(Slugs):
        def operation(self, obj, db_alias):
            super().operation(obj, db_alias)
            gate.wait()

    key = register(monkeypatch, Held)
    batch = in_thread(launch, key, server_alias)
    gate.await_arrivals()
    ensured = in_thread(ensure_migrated, get(server_alias), key)
    gate.open()

    assert ensured.result(PATIENCE) is False
    assert batch.result(PATIENCE).status == "applied"
    assert oracle.counts(server_alias) == [1]


def test_the_callers_transaction_can_take_it_back(db_alias, monkeypatch):
    oracle.make_items(db_alias, 1)
    key = register(monkeypatch, Slugs)

    with transaction.atomic(using=db_alias):
        ensure_migrated(get(db_alias), key)
        transaction.set_rollback(True, using=db_alias)

    assert launch(key, db_alias).status == "applied"
    assert oracle.counts(db_alias) == [1]


def refused(db_alias, monkeypatch, way, **attributes):
    oracle.make_items(db_alias, 1)
    key = register(monkeypatch, type("Way", (way,), attributes))
    with pytest.raises(CannotEnsure) as caught:
        ensure_migrated(get(db_alias), key)
    assert oracle.counts(db_alias) == [0]
    return str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"atomic": False}, "has atomic = False"),
        ({"lock_rows": False}, "has lock_rows = False"),
        ({"catch_up": False}, "does not show which objects are done"),
        ({"get_queryset": lambda self, db_alias: Item.objects.all()}, "does not show which objects are done"),
        (
            {"get_queryset": lambda self, db_alias: Place.objects.all()},
            "migrates testapp.Place objects; the object is of model testapp.Item",
        ),
    ],
    ids=["stepwise", "without-locks", "without-catching-up", "without-filter", "other-model"],
)
def test_what_could_be_done_twice_is_refused(db_alias, monkeypatch, attributes, reason):
    assert reason in refused(db_alias, monkeypatch, Slugs, **attributes)


def test_an_object_that_stays_in_the_queryset_is_taken_back(db_alias, monkeypatch):
    assert "still contains object" in refused(db_alias, monkeypatch, Staying)


def test_what_is_not_done_object_by_object_is_refused(db_alias, monkeypatch):
    once = {"operation": lambda self, db_alias: None}
    assert "does not process single objects" in refused(db_alias, monkeypatch, SimpleMigration, **once)


def test_what_the_operation_raises_is_raised_and_nothing_is_kept(db_alias, monkeypatch):
    oracle.make_items(db_alias, 1)
    key = register(monkeypatch, type("Bad", (Slugs,), {"operation": lambda self, obj, db_alias: 1 / 0}))

    with pytest.raises(ZeroDivisionError):
        ensure_migrated(get(db_alias), key)

    assert not MigrationRecord.objects.using(db_alias).exists()
