import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connections
from django.db.models.signals import post_save
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import override

from massmigration import api
from massmigration.definitions.stages import OnceStage
from massmigration.loader import store
from massmigration.migrations import BaseMigration, MapperMigration
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.adhoc import IMMEDIATE, register
from testsupport.testapp.models import Item

KEY = "testapp:9000_adhoc"
NOW = "2026-01-02T03:04:05Z"

only_sqlite = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])


class Slugs(MapperMigration):
    """Gives every item a slug."""

    update_fields = ["slug"]

    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        obj.slug = f"slug of {obj.name}"


class Saving(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.using(db_alias)

    def operation(self, obj, db_alias):
        obj.save()


class OfUsers(Slugs):
    def get_queryset(self, db_alias):
        return User.objects.using(db_alias)


class NotAtomic(BaseMigration):
    atomic = False

    def get_stages(self):
        return [OnceStage(name=self.key, atomic=False, operation=lambda db_alias: None)]


@pytest.fixture(autouse=True)
def project(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    register(monkeypatch, Slugs)


@pytest.fixture
def client(db_alias):
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


def get(client, view, *arguments, query=""):
    response = client.get(reverse(f"massmigration_{view}", args=arguments) + query)
    assert response.status_code == 200
    return response


def text_of(response):
    return response.content.decode()


def make(db_alias, status=Status.RUNNING, key=KEY, **fields):
    values = {"is_planned": True, "total": 1000, "started_at": timezone.now(), **fields}
    return MigrationRecord.objects.using(db_alias).create(key=key, status=status, **values)


def shard(record, index=0, **fields):
    values = {"attempt_id": record.attempt_id, "stage": 0, "upper": [9], "heartbeat_at": timezone.now()}
    return ShardRecord.objects.using(record._state.db).create(record=record, index=index, **{**values, **fields})


def fail(record, *pks, **fields):
    FailedObject.objects.using(record._state.db).bulk_create(
        FailedObject(
            **{
                "record": record,
                "attempt_id": record.attempt_id,
                "stage": 0,
                "shard": 0,
                "object_pk": [pk],
                "was_passed": True,
                "exception_class": "builtins.ValueError",
                "message": f"bad {pk}",
                "fingerprint": "f" * 64,
                "failed_at": NOW,
                **fields,
            }
        )
        for pk in pks
    )


def queries_of(db_alias, call):
    with CaptureQueriesContext(connections[db_alias]) as queries:
        call()
    return [query["sql"].replace("`", '"') for query in queries]


@only_sqlite
def test_the_list_has_few_queries_for_three_hundred_migrations_on_every_database(client, db_alias):
    for alias in connections:
        MigrationRecord.objects.using(alias).bulk_create(
            MigrationRecord(key=f"shop:{number:04}_one", status=Status.PAUSED, is_planned=True, total=9)
            for number in range(300)
        )
        ShardRecord.objects.using(alias).bulk_create(
            ShardRecord(record=record, attempt_id=record.attempt_id, stage=0, index=0, upper=[9])
            for record in MigrationRecord.objects.using(alias)
        )

    counts = {alias: len(queries_of(alias, lambda: get(client, "manage"))) for alias in connections}
    for alias in connections:
        ShardRecord.objects.using(alias).all().delete()
        MigrationRecord.objects.using(alias).all().delete()

    # The tables, records, shards and failed objects; on the default one the session and the user, too.
    assert counts == {alias: 6 if alias == "default" else 4 for alias in connections}


def test_what_is_polled_takes_one_read_of_each_table_by_an_index(client, db_alias):
    record = make(db_alias)
    for index in range(20):
        shard(record, index, failed=1)
    fail(record, *range(100))

    queries = queries_of(db_alias, lambda: get(client, "status", KEY, db_alias, query="?at=0&done=0"))

    ours = [query for query in queries if '"massmigration_' in query]
    tables = [query.partition('FROM "massmigration_')[2].partition('"')[0] for query in ours]
    assert sorted(tables) == ["event", "failedobject", "migrationrecord", "shardrecord"]
    keys = ('"massmigration_event"."key" =', '"massmigration_migrationrecord"."key" =', '"record_id" =')
    assert all(any(key in query for key in keys) for query in ours)


def test_the_poll_tells_how_it_goes(client, db_alias):
    record = make(db_alias, started_at=timezone.now() - timezone.timedelta(seconds=100))
    shard(
        record, 0, processed=500, cursor=[4], worker="host:1", lease_until=timezone.now() + timezone.timedelta(days=1)
    )

    found = get(client, "status", KEY, db_alias).json()
    earlier = {"at": found["sample"]["at"] - 10_000, "done": found["sample"]["done"] - 100}
    later = get(client, "status", KEY, db_alias, query=f"?at={earlier['at']}&done={earlier['done']}").json()

    assert (found["status"], found["progress"], found["rows"]) == ("running", 500, "500 of 1,000 rows")
    assert (found["poll"], found["verbs"]) == (1000, ["pause", "cancel"])
    assert "host:1" in found["parts"]["shards"]
    assert "10 rows/s" in later["parts"]["figures"]
    assert " to 1 min" in later["parts"]["figures"]


@pytest.mark.parametrize(
    ("status", "poll"),
    [(Status.QUEUED, 1000), (Status.RUNNING, 1000), (Status.PAUSED, 5000), (Status.APPLIED, 0), (Status.FAILED, 0)],
)
@only_sqlite
def test_it_is_polled_as_often_as_it_may_change(client, db_alias, status, poll):
    make(db_alias, status)

    assert get(client, "status", KEY, db_alias).json()["poll"] == poll


def test_a_shard_whose_lease_is_overdue_is_stalled_and_can_be_sent_again(client, db_alias):
    record = make(db_alias)
    shard(record, 7, lease_until=timezone.now() - timezone.timedelta(hours=1), next_send_at=NOW)

    page = text_of(get(client, "detail", KEY, db_alias))
    found = get(client, "status", KEY, db_alias).json()
    response = client.post(reverse("massmigration_give", args=["heal", KEY, db_alias]), follow=True)

    assert "Stalled: lease overdue for 1 h" in page
    assert 'data-mm-verb="heal">' in page
    assert found["is_stalled"]
    assert "Sent again what was stuck: 1 job." in text_of(response)


@only_sqlite
def test_without_workers_the_pages_say_so(client, db_alias, monkeypatch):
    from massmigration.backends.base import BackendHealth

    monkeypatch.setattr(api, "backend_health", lambda key: BackendHealth(workers=0))

    run = text_of(get(client, "run", KEY, db_alias))
    make(db_alias, Status.QUEUED)

    assert "No worker is alive." in run
    assert "No worker is alive." in text_of(get(client, "detail", KEY, db_alias))


def test_the_run_page_tells_what_a_run_would_do(client, db_alias):
    Item.objects.using(db_alias).bulk_create(Item(name=f"item {number}") for number in range(20))

    page = text_of(get(client, "run", KEY, db_alias))

    assert "Gives every item a slug." in page
    assert "20 of testapp.Item" in page
    assert "LIMIT 500" in page
    assert "class Slugs(MapperMigration):" in page
    assert f"Start 9000_adhoc on {db_alias}" in page


def test_a_dry_run_shows_each_field_before_and_after_and_keeps_nothing(client, db_alias):
    Item.objects.using(db_alias).bulk_create(Item(name=f"<i>{number}") for number in range(20))

    page = text_of(client.post(reverse("massmigration_run", args=[KEY, db_alias]), {"dry_run": "1", "size": "4"}))

    assert page.count("<del>None</del>") == 4
    assert "<ins>&#x27;slug of &lt;i&gt;5&#x27;</ins>" in page
    assert "all 20 would take" in page
    assert not Item.objects.using(db_alias).exclude(slug=None).exists()
    assert not MigrationRecord.objects.using(db_alias).exists()


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

    assert "signals have receivers for testapp.Item: post_save." in saving
    assert "It has atomic = False" in not_atomic


@only_sqlite
def test_dependencies_are_shown_with_their_statuses_and_keep_it_from_being_started(client, db_alias, monkeypatch):
    other = type("Other", (Slugs,), {"dependencies": [("testapp", "9000_adhoc")]})
    key = register(monkeypatch, other, "9001_other")
    make(db_alias, Status.FAILED)

    page = text_of(get(client, "run", key, db_alias))
    listed = text_of(get(client, "manage", query="?q=9001"))

    assert "it depends on &#x27;testapp:9000_adhoc&#x27; (failed), which must be applied first." in page
    assert f">Start 9001_other on {db_alias}<" not in page
    assert "Waits for others" in listed
    assert f'href="{reverse("massmigration_run", args=[key, db_alias])}"' not in listed


@only_sqlite
def test_the_list_is_filtered_and_what_can_be_run_stands_out(client, db_alias):
    make(db_alias, Status.FAILED, "gone:0001_one", last_error="x")

    assert reverse("massmigration_run", args=[KEY, db_alias]) in text_of(get(client, "manage", query="?status=ready"))
    assert KEY.partition(":")[2] not in text_of(get(client, "manage", query="?app=gone"))
    assert "Its file is gone" in text_of(get(client, "manage", query="?status=failed"))
    assert "No migration is like that." in text_of(get(client, "manage", query="?q=nothing+like+it"))


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
    client.post(reverse("massmigration_give", args=["retry", KEY, db_alias]))

    assert "No failed object is unresolved." in page
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


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_verb_leaves_an_event_of_the_page_and_an_entry_in_the_admins_log(client, db_alias, verb):
    make(db_alias)

    client.post(reverse("massmigration_give", args=[verb, KEY, db_alias]))

    event = Event.objects.using(db_alias).get(verb=verb)
    assert (event.actor, event.source) == ("ann", "page")
    assert (LogEntry.objects.get().object_id, LogEntry.objects.get().user.username) == (KEY, "ann")
    assert "page" in text_of(get(client, "history", KEY, db_alias))


def test_what_was_forgotten_keeps_its_history(client, db_alias, monkeypatch):
    record = make(db_alias, Status.FAILED)

    form = {"typed": KEY, "seen": f"{record.attempt_id} failed"}
    client.post(reverse("massmigration_delete", args=[KEY, db_alias]), form)
    monkeypatch.delitem(store.by_key, KEY)

    assert "forget" in text_of(get(client, "history", KEY, db_alias))


@pytest.mark.parametrize("is_atomic", [True, False])
def test_pages_work_where_requests_are_transactions(client, db_alias, monkeypatch, is_atomic):
    make(db_alias, Status.FAILED)
    monkeypatch.setitem(connections.settings[db_alias], "ATOMIC_REQUESTS", is_atomic)

    client.post(reverse("massmigration_give", args=["retry", KEY, db_alias]))

    assert MigrationRecord.objects.using(db_alias).get().status == Status.RUNNING


@only_sqlite
def test_numbers_are_those_of_the_readers_language(client, db_alias):
    make(db_alias, total=1_234_567)

    with override("de"):
        page = text_of(client.get(reverse("massmigration_detail", args=[KEY, db_alias]), headers={}))

    assert "1.234.567" in page or "1,234,567" in page


@only_sqlite
def test_the_addresses_of_the_predecessor_lead_to_the_pages(client, db_alias):
    root = reverse("massmigration_manage")

    assert client.get(f"{root}manage/").url == root
    assert reverse("massmigration_run", args=["shop:0001_a", "default"]) == f"{root}run/shop:0001_a/default/"
    assert reverse("massmigration_detail", kwargs={"key": "a:1_b", "db_alias": "x"}) == f"{root}detail/a:1_b/x/"


@only_sqlite
def test_no_page_has_an_inline_script_or_style(client, db_alias):
    make(db_alias)

    pages = [get(client, "manage"), *(get(client, view, KEY, db_alias) for view in ("detail", "failures", "history"))]

    bodies = [text_of(page).partition('<div class="mm">')[2] for page in pages]
    assert [("style=" in body, "<script" in body, " onclick" in body) for body in bodies] == [(False,) * 3] * 4


@only_sqlite
def test_without_the_admin_the_pages_stand_alone(client, db_alias):
    from testsupport.site import project as of_project

    make(db_alias)
    with of_project(has_admin=False):
        page = text_of(get(client, "detail", KEY, db_alias))
        response = Client().get(reverse("massmigration_detail", args=[KEY, db_alias]))
        client.post(reverse("massmigration_give", args=["pause", KEY, db_alias]))

    assert "mm-standalone" in page
    assert "Django administration" not in page
    assert response.url.startswith("/accounts/login/?next=")
    assert MigrationRecord.objects.get().status == Status.PAUSED
    assert not LogEntry.objects.exists()


@only_sqlite
def test_who_is_not_of_the_staff_sees_the_pages_without_the_admins_frame(db_alias):
    from django.contrib.auth.models import Permission

    user = User.objects.create_user("bob")
    user.user_permissions.set(Permission.objects.filter(codename="view_migrationrecord"))
    client = Client()
    client.force_login(user)

    assert "mm-standalone" in text_of(get(client, "manage"))


@only_sqlite
def test_the_admins_list_has_a_way_to_the_pages_where_they_have_an_address(client, db_alias, settings):
    address = reverse("admin:massmigration_migrationrecord_changelist")

    assert f'<a href="{reverse("massmigration_manage")}">Manage Migrations</a>' in text_of(client.get(address))
    settings.ROOT_URLCONF = "testsupport.urls_of_admin_alone"
    assert "Manage Migrations" not in text_of(client.get(address))
