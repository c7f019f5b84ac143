import pytest
from django.db.models.signals import post_save
from django.urls import reverse

from massmigration import api
from massmigration.definitions.stages import OnceStage
from massmigration.migrations import BaseMigration, MapperMigration
from massmigration.models import MigrationRecord
from massmigration.operations import DeleteModelData, OperationsMigration
from massmigration.states import Status
from testsupport.factories import KEY, Slugs, get, make, text_of
from testsupport.inline_migrations import register
from testsupport.marks import only_sqlite
from testsupport.testapp.models import Item

pytestmark = pytest.mark.usefixtures("slugs")


class Saving(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        obj.save()


class Emptying(OperationsMigration):
    operations = [DeleteModelData("testapp.Item")]


class NotAtomic(BaseMigration):
    atomic = False

    def get_stages(self):
        return [OnceStage(name=self.key, atomic=False, operation=lambda db_alias: None)]


@only_sqlite
def test_without_workers_the_pages_say_so(client, db_alias, monkeypatch):
    from massmigration.backends.base import BackendHealth

    monkeypatch.setattr(api, "backend_health", lambda key: BackendHealth(workers=0))

    run = text_of(get(client, "run", KEY, db_alias))
    make(db_alias, Status.QUEUED)

    assert "No worker is running." in run
    assert "No worker is running." in text_of(get(client, "detail", KEY, db_alias))


def test_the_run_page_tells_what_a_run_would_do(client, db_alias):
    Item.objects.using(db_alias).bulk_create(Item(name=f"item {number}") for number in range(20))

    response = get(client, "run", KEY, db_alias)
    page = text_of(response)

    assert "Gives every item a slug." in page
    assert "20 of testapp.Item" in page
    assert "LIMIT 100" in page
    assert "class Slugs(MapperMigration):" in response.content.decode()
    assert f"Launch 9000_adhoc on {db_alias}" in page


@only_sqlite
def test_a_dry_run_warns_of_what_is_not_written(client, db_alias, monkeypatch):
    monkeypatch.setattr(Slugs, "operation", lambda self, obj, db_alias: setattr(obj, "note", "new"))
    Item.objects.using(db_alias).create(name="a")

    page = text_of(client.post(reverse("massmigration_run", args=[KEY, db_alias]), {"dry_run": "1", "size": "4"}))

    assert "No object was changed, and nothing else was written." in page
    assert "The operation assigned note, which is not in update_fields" in page


def test_a_dry_run_shows_each_field_before_and_after_and_keeps_nothing(client, db_alias):
    Item.objects.using(db_alias).bulk_create(Item(name=f"<i>{number}") for number in range(20))

    page = text_of(client.post(reverse("massmigration_run", args=[KEY, db_alias]), {"dry_run": "1", "size": "4"}))

    assert page.count("<del>None</del>") == 4
    assert "<ins>&#x27;slug of &lt;i&gt;5&#x27;</ins>" in page
    assert "all rows (20) would take" in page
    assert not Item.objects.using(db_alias).exclude(slug=None).exists()
    assert not MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("path", ["run", "action"])
def test_what_cannot_be_taken_back_starts_when_its_name_is_typed(client, db_alias, monkeypatch, path):
    register(monkeypatch, Emptying)
    address = reverse(f"massmigration_{path}", args=[*(["launch"] if path == "action" else []), KEY, db_alias])

    page = text_of(client.get(address))
    refused = [client.post(address, data) for data in ({}, {"typed": "yes"}, {"typed": "9000_adhoc", "seen": "else"})]

    assert "It deletes all rows of testapp.Item, and the rows that refer to them. This cannot be undone." in page
    assert "Type <b>9000_adhoc</b> to confirm:" in page
    assert ["Nothing was changed:" in text_of(response) for response in refused] == [True] * 3
    assert not MigrationRecord.objects.using(db_alias).exists()
    client.post(address, {"typed": "9000_adhoc", "seen": ""})
    assert MigrationRecord.objects.using(db_alias).get().status == Status.QUEUED


def test_an_emptying_migration_is_restarted_with_its_own_warning(client, db_alias, monkeypatch):
    register(monkeypatch, Emptying)
    make(db_alias, Status.FAILED)

    page = text_of(client.get(reverse("massmigration_action", args=["restart", KEY, db_alias])))

    assert "It deletes all rows of testapp.Item, and the rows that refer to them." in page


@only_sqlite
def test_the_run_page_warns_of_signals_and_of_effects_elsewhere(client, db_alias, monkeypatch):
    def receive(**kwargs):
        pass

    post_save.connect(receive, sender=Item)
    register(monkeypatch, Saving)
    saving = text_of(get(client, "run", KEY, db_alias))
    post_save.disconnect(receive, sender=Item)
    register(monkeypatch, NotAtomic)
    not_atomic = text_of(get(client, "run", KEY, db_alias))

    assert "signals that have receivers for testapp.Item: post_save." in saving
    assert "The migration has atomic = False" in not_atomic
