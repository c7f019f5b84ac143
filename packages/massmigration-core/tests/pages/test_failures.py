import pytest
from django.contrib.auth.models import User
from django.urls import reverse

from massmigration.models import FailedObject, MigrationRecord
from massmigration.states import Status
from testsupport.factories import KEY, Slugs, fail, get, make, queries_of, shard, text_of
from testsupport.inline_migrations import IMMEDIATE, register
from testsupport.marks import only_sqlite
from testsupport.testapp.models import Item

pytestmark = pytest.mark.usefixtures("slugs")


class OfUsers(Slugs):
    def get_queryset(self, db_alias):
        return User.objects.using(db_alias)


def test_failures_are_grouped_and_one_of_them_is_retried(client, db_alias, settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Item.objects.using(db_alias).bulk_create(Item(name=f"item {number}") for number in range(3))
    pks = list(Item.objects.using(db_alias).order_by("pk").values_list("pk", flat=True))
    record = make(db_alias, Status.FAILED, total=3)
    shard(record, processed=1, failed=2, is_done=True)
    fail(record, *pks[:2])
    fail(record, pks[2], exception_class="builtins.KeyError", fingerprint="k" * 64)

    page = text_of(get(client, "failures", KEY, db_alias))
    first = FailedObject.objects.using(db_alias).order_by("pk").first()
    client.post(reverse("massmigration_failures", args=[KEY, db_alias]), {"do": "retry", "ids": first.pk})

    assert page.index("ValueError: bad") < page.index("KeyError: bad")
    assert page.count("<h2 id=") == 2
    assert [item.slug for item in Item.objects.using(db_alias).order_by("pk")] == ["slug of item 0", None, None]
    assert FailedObject.objects.using(db_alias).filter(resolved_at=None).count() == 2
    assert MigrationRecord.objects.using(db_alias).get().status == Status.FAILED


def test_what_is_resolved_with_a_reason_leaves_nothing_to_retry(client, db_alias, settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    record = make(db_alias, Status.FAILED, total=3)
    shard(record, processed=1, failed=2, is_done=True)
    fail(record, 1, 2)

    form = {"do": "resolve", "group": "f" * 64, "reason": "They are test data."}
    client.post(reverse("massmigration_failures", args=[KEY, db_alias]), form)
    page = text_of(get(client, "failures", KEY, db_alias))
    client.post(reverse("massmigration_action", args=["retry", KEY, db_alias]))

    assert "There are no failed objects to fix." in page
    assert "They are test data." in page
    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED
    assert "2 failed objects: They are test data." in text_of(get(client, "history", KEY, db_alias))


@only_sqlite
def test_an_object_leads_to_its_page_in_the_admin(client, db_alias, monkeypatch):
    register(monkeypatch, OfUsers)
    fail(make(db_alias, Status.FAILED), 5)

    assert 'href="/admin/auth/user/5/change/"' in text_of(get(client, "failures", KEY, db_alias))


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_an_object_of_another_database_than_the_admins_has_no_link(client, db_alias, monkeypatch):
    register(monkeypatch, OfUsers)
    fail(make(db_alias, Status.FAILED), 5)

    assert "/admin/auth/user/5/" not in text_of(get(client, "failures", KEY, db_alias))


@only_sqlite
def test_the_page_of_a_cause_says_which_it_is_and_retries_it_as_a_whole(client, db_alias):
    record = make(db_alias, Status.FAILED)
    fail(record, *range(60), traceback="the place")
    fail(record, 99, exception_class="builtins.KeyError", fingerprint="k" * 64)

    page = text_of(get(client, "failures", KEY, db_alias, query="?group=" + "f" * 64))

    assert "ValueError: bad 0</span></h2>" in page
    assert "60 failed objects" in page
    assert '<pre tabindex="0">the place</pre>' in page
    assert "Retry this group" in page
    assert "Page 1 of 2" in page
    assert "KeyError" not in page
    assert "No failed object of this cause is left." in text_of(
        get(client, "failures", KEY, db_alias, query="?group=none")
    )


@only_sqlite
@pytest.mark.parametrize("messages", [("same", "same"), ("one", "two")])
def test_a_message_that_all_objects_share_is_said_once(client, db_alias, messages):
    record = make(db_alias, Status.FAILED)
    for pk, message in enumerate(messages):
        fail(record, pk, message=message)

    assert (">Error<" in text_of(get(client, "failures", KEY, db_alias))) == (len(set(messages)) > 1)


@only_sqlite
def test_the_queries_do_not_grow_with_the_objects_of_a_cause(client, db_alias):
    record = make(db_alias, Status.FAILED)
    fail(record, 1, 2)
    few = queries_of(db_alias, lambda: get(client, "failures", KEY, db_alias))
    fail(record, *range(3, 300))

    many = queries_of(db_alias, lambda: get(client, "failures", KEY, db_alias))

    assert len(many) == len(few)
