import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import override

from massmigration.backends.dummy import DummyBackend
from massmigration.loader import store
from massmigration.models import Event, MigrationRecord
from massmigration.states import Status
from testsupport.factories import KEY, NOW, fail, get, make, queries_of, shard, text_of
from testsupport.marks import only_sqlite

pytestmark = pytest.mark.usefixtures("slugs")


def down(backend, payload, delay):
    raise ConnectionError("no broker")


def test_what_is_polled_takes_one_read_of_each_table_by_an_index(client, db_alias):
    record = make(db_alias)
    for index in range(20):
        shard(record, index, failed=1)
    fail(record, *range(100))

    queries = queries_of(db_alias, lambda: get(client, "status", KEY, db_alias, query="?at=0&done=0"))

    ours = [query for query in queries if '"massmigration_' in query]
    tables = [query.partition('FROM "massmigration_')[2].partition('"')[0] for query in ours]
    # The record is read with the switch, which may come first.
    tables = ["migrationrecord" if table == "switch" else table for table in tables]
    assert sorted(tables) == ["event", "failedobject", "migrationrecord", "shardrecord"]
    columns = ('event"."key', 'migrationrecord"."key', 'switch"."name')
    keys = (*(f'"massmigration_{column}" =' for column in columns), '"record_id" =')
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


@pytest.mark.parametrize("is_estimated", [False, True], ids=["counted", "estimated"])
@only_sqlite
def test_one_row_is_in_the_singular(client, db_alias, is_estimated):
    record = make(db_alias, total=1, is_total_estimated=is_estimated)
    shard(record, 0, processed=0, skipped=1)

    found = get(client, "status", KEY, db_alias).json()

    assert found["rows"] == f"1 of {'about ' if is_estimated else ''}1 row"
    assert "1 row skipped" in found["parts"]["figures"]


@pytest.mark.parametrize(
    ("status", "poll"),
    [
        (Status.QUEUED, 1000),
        (Status.RUNNING, 1000),
        (Status.WAITING, 5000),
        (Status.PAUSED, 5000),
        (Status.APPLIED, 0),
        (Status.FAILED, 0),
    ],
)
@only_sqlite
def test_it_is_polled_as_often_as_it_may_change(client, db_alias, status, poll):
    make(db_alias, status)

    assert get(client, "status", KEY, db_alias).json()["poll"] == poll


def test_a_shard_whose_lease_is_overdue_is_stuck_and_can_be_sent_again(client, db_alias):
    record = make(db_alias)
    shard(record, 7, lease_until=timezone.now() - timezone.timedelta(hours=1), next_send_at=NOW)

    page = text_of(get(client, "detail", KEY, db_alias))
    found = get(client, "status", KEY, db_alias).json()
    response = client.post(reverse("massmigration_action", args=["recover", KEY, db_alias]), follow=True)

    assert "Stuck: lease expired 1 h" in page
    assert 'data-mm-verb="recover">' in page
    assert found["is_stuck"]
    assert "Recovery sent 1 stuck job again." in text_of(response)


def test_a_throttle_that_keeps_workers_from_it_is_told(client, db_alias):
    until = timezone.now() + timezone.timedelta(minutes=30)
    shard(make(db_alias), 7, throttled_until=until, throttled_by="while_lagging")

    page = text_of(get(client, "detail", KEY, db_alias))
    found = get(client, "status", KEY, db_alias).json()

    assert "Throttled by while_lagging" in page
    assert re.search(r"Throttled until \d\d:\d\d:\d\d by while_lagging\.", page)
    assert (found["throttled_until"], found["throttled_by"]) == (until.isoformat(), "while_lagging")
    assert not found["is_stuck"]


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_verb_leaves_an_event_of_the_page_and_an_entry_in_the_admins_log(client, db_alias, verb):
    make(db_alias)

    client.post(reverse("massmigration_action", args=[verb, KEY, db_alias]))

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

    client.post(reverse("massmigration_action", args=["retry", KEY, db_alias]))

    assert MigrationRecord.objects.using(db_alias).get().status == Status.RUNNING


@only_sqlite
@pytest.mark.parametrize(("language", "number"), [("en", "1,234,567"), ("de", "1.234.567")])
def test_numbers_are_those_of_the_readers_language(client, db_alias, language, number):
    make(db_alias, total=1_234_567)

    with override(language):
        page = text_of(get(client, "detail", KEY, db_alias))

    assert f"0 of {number} rows" in page


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
    from testsupport.live_server import project as of_project

    make(db_alias)
    with of_project(has_admin=False):
        page = text_of(get(client, "detail", KEY, db_alias))
        response = Client().get(reverse("massmigration_detail", args=[KEY, db_alias]))
        client.post(reverse("massmigration_action", args=["pause", KEY, db_alias]))

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

    assert f'<a href="{reverse("massmigration_manage")}">Manage migrations</a>' in text_of(client.get(address))
    settings.ROOT_URLCONF = "testsupport.urls_of_admin_alone"
    assert "Manage migrations" not in text_of(client.get(address))


@pytest.mark.parametrize(
    ("view", "form"),
    [("run", {}), ("action", {}), ("failures", {"do": "retry"})],
    ids=["start", "retry", "retry failed objects"],
)
def test_a_queue_that_does_not_take_the_job_is_said_where_it_was_started(client, db_alias, monkeypatch, view, form):
    if view != "run":
        fail(make(db_alias, Status.FAILED), 1)
    arguments = ["retry", KEY, db_alias] if view == "action" else [KEY, db_alias]
    monkeypatch.setitem(connections.settings[db_alias], "ATOMIC_REQUESTS", True)
    monkeypatch.setattr(DummyBackend, "send", down)

    response = client.post(reverse(f"massmigration_{view}", args=arguments), form)

    messages = [(message.level_tag, str(message)) for message in get_messages(response.wsgi_request)]
    assert [level for level, _ in messages] == ["warning"]
    assert f"{KEY} waits, because its job could not be sent" in messages[0][1]
    assert "no broker" in messages[0][1]
    assert Event.objects.using(db_alias).filter(verb="not sent").exists()


@only_sqlite
@pytest.mark.parametrize(
    ("status", "words", "others"),
    [
        (Status.RUNNING, "Waiting for a worker", "Not done"),
        (Status.PAUSED, "Not done", "Waiting for a worker"),
        (Status.FAILED, "Not done", "Waiting for a worker"),
    ],
)
def test_shards_wait_for_a_worker_only_while_the_migration_runs(client, db_alias, status, words, others):
    shard(make(db_alias, status))

    text = text_of(get(client, "detail", KEY, db_alias))

    assert words in text
    assert others not in text
