import pytest
from django.contrib.auth.models import User
from django.db import models
from django.urls import reverse

from massmigration import urls
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.migrations import SimpleMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.factories import client_with
from testsupport.inline_migrations import register

KEY = "testapp:9000_adhoc"
BROKEN = "testapp:9999_broken"
NOW = "2026-01-02T03:04:05Z"
SECRET = "4242-SECRET"
KNOWN = {
    "key", "record", "backend", "launched_by", "source_hash", "running_hash", "worker", "throttled_by",
    "exception_class", "fingerprint", "resolution", "actor", "source", "verb", "from_status", "to_status", "status",
}  # fmt: skip
"""Texts that nobody's data gets into, and what an operator wrote."""

OTHERS = {f"massmigration_{view}" for view in ("manage", "run", "delete", "action", "everything")}
VIEWS = sorted(
    pattern.name.removeprefix("massmigration_")
    for pattern in urls.urlpatterns
    if pattern.name and pattern.name not in OTHERS
)
"""The pages of one migration that need the view permission alone."""

pytestmark = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])


class Once(SimpleMigration):
    def operation(self, db_alias):
        pass


@pytest.fixture(autouse=True)
def project(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    register(monkeypatch, Once)
    monkeypatch.setitem(store.errors, BROKEN, BadMigrationFile(f"It cannot be imported: {SECRET}"))


def make(status):
    """Create a record with a shard, two failed objects of one cause and an event. Every other text has the secret."""
    record = create(MigrationRecord, key=KEY, status=status, is_planned=True, launched_at=NOW)
    attempt = {"record": record, "attempt_id": record.attempt_id, "stage": 0}
    create(ShardRecord, **attempt, index=0, upper=[9])
    failed = {**attempt, "shard": 0, "is_behind_cursor": True, "failed_at": NOW, "fingerprint": "f" * 64}
    create(FailedObject, **failed, object_pk=[1])
    create(FailedObject, **failed, object_pk=[2], number=2)
    create(FailedObject, **failed, object_pk=[3], resolved_at=NOW, resolution="A test customer.")
    create(Event, key=KEY, verb="failed", at=NOW, from_status="running", to_status="failed")


def create(model, number=1, **fields):
    texts = [field.name for field in model._meta.fields if isinstance(field, models.CharField | models.TextField)]
    secrets = {name: f"{SECRET} {number}" for name in texts if name not in KNOWN}
    return model.objects.create(**{**secrets, **fields})


def pages(db_alias):
    group = reverse("massmigration_failures", args=[KEY, db_alias]) + "?group=" + "f" * 64
    found = [reverse("massmigration_manage"), group]
    found += [reverse(f"massmigration_{view}", args=[key, db_alias]) for view in VIEWS for key in (KEY, BROKEN)]
    found += [reverse("massmigration_action", args=[verb, KEY, db_alias]) for verb in ("cancel", "forget")]
    for model in (MigrationRecord, FailedObject, Event):
        name = f"admin:massmigration_{model._meta.model_name}"
        found += [reverse(f"{name}_changelist"), reverse(f"{name}_changelist") + "?q=9000"]
        for obj in model.objects.all():
            found += [reverse(f"{name}_{view}", args=[obj.pk]) for view in ("change", "history")]
    return found


@pytest.mark.parametrize("status", ["failed", "running", "queued", "paused", "cancelled", "applied"])
def test_plain_viewers_see_no_text_that_may_hold_data(db_alias, status):
    make(status)
    client = client_with("view", "control", "forget")

    responses = {address: client.get(address) for address in pages(db_alias)}

    assert {response.status_code for response in responses.values()} == {200}
    assert [address for address, response in responses.items() if SECRET in response.content.decode()] == []


@pytest.mark.parametrize(
    "address",
    ["massmigration_detail", "massmigration_status", "massmigration_failures", "massmigration_history"],
)
def test_who_may_inspect_sees_them(db_alias, address):
    make(Status.FAILED)

    page = client_with("view", "inspect").get(reverse(address, args=[KEY, db_alias])).content.decode()

    assert SECRET in page


def test_who_may_inspect_sees_why_a_file_cannot_be_used(db_alias):
    client = client_with("view", "inspect")

    assert SECRET in client.get(reverse("massmigration_manage")).content.decode()
    assert SECRET in client.get(reverse("massmigration_detail", args=[BROKEN, db_alias])).content.decode()


def test_to_inspect_alone_is_not_to_view(db_alias):
    make(Status.FAILED)
    client = client_with("inspect")

    assert {client.get(address).status_code for address in pages(db_alias)} == {403}


@pytest.mark.parametrize(
    ("model", "query", "status"),
    [
        ("failedobject", "message__startswith=4242", 403),
        ("failedobject", "message=4242", 403),
        ("failedobject", "traceback__contains=4242", 403),
        ("failedobject", "record__last_error__contains=4242", 400),
        ("failedobject", "record__shards__stalled_error__contains=4242", 400),
        ("migrationrecord", "last_error__contains=4242", 403),
        ("migrationrecord", "stalled_error__contains=4242", 403),
        ("migrationrecord", "failed_objects__message__contains=4242", 400),
        ("migrationrecord", "shards__stalled_error__contains=4242", 400),
        ("event", "detail__contains=4242", 403),
    ],
)
def test_plain_viewers_cannot_ask_whether_a_text_holds_something(db_alias, model, query, status):
    make(Status.FAILED)
    address = reverse(f"admin:massmigration_{model}_changelist")

    assert client_with("view").get(f"{address}?{query}").status_code == status


def test_plain_viewers_do_not_find_by_a_text(db_alias):
    make(Status.FAILED)
    address = reverse("admin:massmigration_failedobject_changelist")
    found = f"/admin/massmigration/failedobject/{FailedObject.objects.first().pk}/change/"

    assert found not in client_with("view").get(f"{address}?q={SECRET}").content.decode()
    User.objects.all().delete()
    assert found in client_with("view", "inspect").get(f"{address}?q={SECRET}").content.decode()
