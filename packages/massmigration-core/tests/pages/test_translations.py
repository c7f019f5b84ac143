"""The texts of the pages, all of which must be translatable."""

import html
import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from massmigration.migrations import MapperMigration
from massmigration.models import Event
from massmigration.states import Status
from testsupport.factories import KEY, fail, make, shard, text_of
from testsupport.inline_migrations import register
from testsupport.live_server import project as served
from testsupport.testapp.models import Item

VIEWS = ("detail", "run", "failures", "history", "pace", "delete")
HOUR = timezone.timedelta(hours=1)
DATA = {
    *("testapp", "adhoc", "old", "Item", "ann", "massmigration", "backends", "dummy", "DummyBackend"),
    *("default", "postgresql", "mariadb", "mysql"),
    *("worker", "ValueError", "bad", "slug", "name", "INTEGER", "PRIMARY", "KEY"),
    *("why", "None", "more", "gives", "every", "item"),
}
"""What is shown of the data, of the user's code and of the database."""

CODE = re.compile(r"<(pre|code|script|title)\b.*?</\1>|<option\b[^>]*>[^<«]*</option>|datetime=\"[^\"]*\"", re.DOTALL)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4,12}){4}")
SAID = re.compile(r">([^<]+)<|(?:aria-label|data-label|title|placeholder)=\"([^\"]*)\"")

pytestmark = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])


class Slugs(MapperMigration):
    """gives every item more"""

    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        obj.slug = obj.name


@pytest.fixture
def translated(monkeypatch):
    """Mark what goes through gettext."""
    marks = {
        "gettext": lambda text: f"«{text}»",
        "pgettext": lambda context, text: f"«{text}»",
        "ngettext": lambda one, many, number: f"«{one if number == 1 else many}»",
        "npgettext": lambda context, one, many, number: f"«{one if number == 1 else many}»",
    }
    for name, mark in marks.items():
        monkeypatch.setattr(translation._trans, name, mark, raising=False)


def untranslated(page):
    """Return the words of a page that are neither marked nor data."""
    body = UUID.sub("", CODE.sub("", page.partition("<body>")[2]))
    before = ""
    while before != body:
        before, body = body, re.sub(r"«[^«»]*»", "", body)
    found = " ".join(html.unescape(text or label) for text, label in SAID.findall(body))
    return set(re.findall(r"[A-Za-z]{2,}", found)) - DATA


@pytest.mark.parametrize("status", [None, *Status], ids=str)
def test_every_text_of_the_pages_can_be_translated(db_alias, settings, monkeypatch, translated, status):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    register(monkeypatch, Slugs)
    Item.objects.bulk_create(Item(name="old") for _ in range(3))
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    if status:
        now = timezone.now()
        record = make(db_alias, status, launched_by="ann", launched_at=now - HOUR, started_at=now - HOUR)
        shard(record, 0, processed=5, skipped=2, failed=2, worker="worker", lease_until=now + HOUR, heartbeat_at=now)
        shard(record, 1, processed=5, is_done=True, upper=None)
        fail(record, 1, 2)
        fail(record, 3, resolved_at=now, resolution="why")
        for verb in ("launch", "plan", "pause", "not sent"):
            Event.objects.create(key=KEY, at=now, verb=verb, source="page", actor="ann", to_status=status)

    with served(has_admin=False):
        addresses = {view: reverse(f"massmigration_{view}", args=[KEY, db_alias]) for view in VIEWS}
        pages = [client.get(address) for address in [reverse("massmigration_manage") + "?q=adhoc", *addresses.values()]]
        pages.append(client.post(addresses["run"], {"dry_run": "1", "size": "2"}))

    assert [page.status_code for page in pages] == [200] * 8
    assert [untranslated(text_of(page)) for page in pages] == [set()] * 8


@pytest.mark.parametrize("page", ["add", "confirm"])
def test_every_text_of_our_pages_in_the_admin_can_be_translated(db_alias, settings, monkeypatch, translated, page):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    register(monkeypatch, Slugs)
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    if page == "add":
        response = client.get(reverse("admin:massmigration_migrationrecord_add"))
    else:
        make(db_alias, Status.FAILED)
        listed = reverse("admin:massmigration_migrationrecord_changelist")
        response = client.post(listed, {"action": "forget", "_selected_action": KEY})

    ours = text_of(response).partition('id="content"')[2]

    assert KEY in ours
    assert untranslated(f"<body>{ours}") == set()
