import pytest
from django.contrib.messages import get_messages
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.operations import DeleteModelData, OperationsMigration
from massmigration.recorder import tables
from massmigration.states import Status
from testsupport.actions import CALLED, offer
from testsupport.factories import Slugs, client_with
from testsupport.inline_migrations import register

KEY = "testapp:9000_adhoc"
LIST = "admin:massmigration_migrationrecord_changelist"
ADD = "admin:massmigration_migrationrecord_add"
CHANGE = "admin:massmigration_migrationrecord_change"
NOW = "2026-01-02T03:04:05Z"


class Emptying(OperationsMigration):
    operations = [DeleteModelData("testapp.Item")]


@pytest.fixture(autouse=True)
def offering(settings, monkeypatch):
    offer(settings, monkeypatch)


def address(name, db_alias, *arguments, **query):
    return f"{reverse(name, args=arguments)}?db={db_alias}" + "".join(f"&{key}={value}" for key, value in query.items())


def make(db_alias, status=Status.RUNNING, key=KEY, **fields):
    return MigrationRecord.objects.using(db_alias).create(key=key, status=status, **fields)


def act(client, db_alias, action, **data):
    return client.post(address(LIST, db_alias), {"action": action, "_selected_action": KEY, **data})


def said(response):
    return [(message.level_tag, message.message) for message in get_messages(response.wsgi_request)]


def actions_offered(response):
    return [name for name, _ in response.context["action_form"].fields["action"].choices if name]


def status_of(db_alias):
    return MigrationRecord.objects.using(db_alias).get().status


def test_the_list_shows_the_records_of_the_chosen_database(db_alias):
    record = make(db_alias, is_planned=True, total=100, launched_by="bob")
    ShardRecord.objects.using(db_alias).create(
        record=record, attempt_id=record.attempt_id, stage=0, index=0, upper=[9], processed=42
    )

    page = client_with("view").get(address(LIST, db_alias)).content.decode()

    assert KEY in page
    assert "42.0%, 42 of 100 rows" in page
    assert "bob" in page


def test_without_a_choice_it_shows_the_default_database(server_alias):
    make(server_alias)

    assert KEY not in client_with("view").get(reverse(LIST)).content.decode()


@pytest.mark.parametrize("query", [{"status__exact": "running"}, {"q": "9000"}], ids=["status", "search"])
def test_the_list_is_filtered(db_alias, query):
    make(db_alias)
    make(db_alias, Status.FAILED, "testapp:0001_other")

    page = client_with("view").get(address(LIST, db_alias, **query)).content.decode()

    assert (KEY in page, "testapp:0001_other" in page) == (True, False)


def test_the_page_of_a_record_shows_its_shards_and_leads_to_the_rest(db_alias):
    record = make(db_alias, Status.FAILED, last_error="ValueError: bad")
    ShardRecord.objects.using(db_alias).create(
        record=record, attempt_id=record.attempt_id, stage=0, index=0, upper=[9], worker="host:77"
    )

    page = client_with("view", "inspect").get(address(CHANGE, db_alias, KEY)).content.decode()

    assert "host:77" in page
    assert "ValueError: bad" in page
    assert f"failedobject/?record__exact=testapp%3A9000_adhoc&amp;db={db_alias}" in page
    assert f"event/?key=testapp%3A9000_adhoc&amp;db={db_alias}" in page
    assert 'name="_save"' not in page


def test_the_page_that_the_list_leads_to_is_of_the_same_database(server_alias):
    make(server_alias)
    client = client_with("view")

    response = client.get(reverse(CHANGE, args=[KEY]), {"_changelist_filters": f"db={server_alias}"})

    assert response.status_code == 200


def test_failed_objects_and_events_are_shown(db_alias):
    record = make(db_alias, Status.FAILED)
    FailedObject.objects.using(db_alias).create(
        record=record, attempt_id=record.attempt_id, stage=0, shard=0, message="bad item", failed_at=NOW
    )
    Event.objects.using(db_alias).create(key=KEY, verb="pause", actor="eve", at=NOW)
    client = client_with("view", "inspect")

    failed = client.get(address("admin:massmigration_failedobject_changelist", db_alias, record__exact=KEY))
    events = client.get(address("admin:massmigration_event_changelist", db_alias, key=KEY))

    assert "bad item" in failed.content.decode()
    assert "eve" in events.content.decode()


def test_nothing_can_be_edited(db_alias):
    make(db_alias)

    response = client_with("view", "change", "delete").post(address(CHANGE, db_alias, KEY), {"status": "applied"})

    assert response.status_code == 403
    assert status_of(db_alias) == Status.RUNNING


def test_the_queries_of_the_list_do_not_grow_with_the_records(db_alias):
    client = client_with("view")
    for number in range(20):
        make(db_alias, key=f"testapp:{number:04}_one")

    with CaptureQueriesContext(connections[db_alias]) as queries:
        client.get(address(LIST, db_alias))

    assert len([query for query in queries if '"massmigration_' in query["sql"].replace("`", '"')]) <= 7


def test_missing_tables_are_told_with_what_to_run(db_alias, monkeypatch):
    monkeypatch.setattr(tables, "_problem", lambda alias: "has no tables")

    response = client_with("view").get(address(LIST, db_alias))

    assert response.status_code == 302
    assert said(response)[0][1].endswith(f"Run: manage.py migrate --database {db_alias}")


RUN = ["proceed", "retry", "restart", "fake"]
FORGET = ["forget"]
CONTROL = ["pause", "resume", "cancel"]


@pytest.mark.parametrize(
    ("permissions", "offered"),
    [
        (["view"], []),
        (["view", "run"], RUN),
        (["view", "control"], [*CONTROL, "backend_look"]),
        (["view", "forget"], FORGET),
        (["view", "run", "control", "forget"], [*CONTROL, *RUN, *FORGET, "backend_look"]),
    ],
    ids=lambda value: "-".join(value),
)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_actions_are_offered_to_those_who_may_use_them(db_alias, permissions, offered):
    make(db_alias)

    response = client_with(*permissions).get(address(LIST, db_alias))

    form = response.context["action_form"]
    assert sorted(actions_offered(response) if form else []) == sorted(offered)


@pytest.mark.parametrize("verb", [*RUN, *CONTROL, *FORGET, "backend_look"])
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_an_action_without_its_permission_does_nothing(db_alias, verb):
    make(db_alias, Status.PAUSED)
    others = {"run", "control", "forget"} - {"run" if verb in RUN else "forget" if verb in FORGET else "control"}

    act(client_with("view", *others), db_alias, verb, confirmed="yes")

    assert status_of(db_alias) == Status.PAUSED
    assert not Event.objects.using(db_alias).exists()
    assert CALLED == []


@pytest.mark.parametrize("permissions", [[], ["run", "control"]], ids=["none", "all but view"])
def test_the_list_is_for_those_who_may_view_it(db_alias, permissions):
    assert client_with(*permissions).get(address(LIST, db_alias)).status_code == 403


def test_a_grave_action_asks_on_a_page_of_its_own(db_alias):
    make(db_alias, Status.FAILED)
    client = client_with("view", "forget")

    page = act(client, db_alias, "forget").content.decode()

    assert "Deletes the record with its shards and failed objects, as if the migration had never been launched." in page
    assert f'name="_selected_action" value="{KEY}"' in page
    assert "<script" not in page.partition('id="content"')[2]
    assert status_of(db_alias) == Status.FAILED
    response = act(client, db_alias, "forget", confirmed="yes")
    assert said(response) == [("success", f"{KEY} was forgotten on {db_alias}.")]


class Asking(Slugs):
    def get_stages(self):
        return [self.wait("Are the slugs good?"), self.wait("And now?")]


def test_proceed_asks_the_question_of_each_migration_and_confirms_that_one(db_alias, monkeypatch):
    register(monkeypatch, Asking)
    make(db_alias, Status.WAITING)
    client = client_with("view", "run")

    page = act(client, db_alias, "proceed").content.decode()

    assert f"<li>{KEY}: Are the slugs good?</li>" in page
    assert f'name="stage" value="0 {KEY}"' in page

    MigrationRecord.objects.using(db_alias).update(stage=1)
    response = act(client, db_alias, "proceed", confirmed="yes", stage=f"0 {KEY}")

    assert "has reached another question than the one you confirmed" in said(response)[-1][1]
    assert status_of(db_alias) == Status.WAITING

    response = act(client, db_alias, "proceed", confirmed="yes", stage=f"1 {KEY}")

    assert said(response)[-1] == ("success", f"{KEY} proceeds on {db_alias}.")
    assert status_of(db_alias) == Status.RUNNING


@pytest.mark.parametrize("stage", ["", "x", f"one {KEY}", f"-1 {KEY}", "9" * 400])
def test_a_stage_that_is_no_number_is_no_error(db_alias, monkeypatch, stage):
    register(monkeypatch, Asking)
    make(db_alias, Status.WAITING)

    response = act(client_with("view", "run"), db_alias, "proceed", confirmed="yes", stage=stage)

    assert response.status_code == 302


def test_actions_work_where_requests_are_transactions(db_alias, monkeypatch):
    make(db_alias, Status.FAILED)
    monkeypatch.setitem(connections.settings[db_alias], "ATOMIC_REQUESTS", True)

    response = act(client_with("view", "run"), db_alias, "retry")

    assert said(response) == [("success", f"{KEY} continues from where it stopped on {db_alias}.")]


@pytest.mark.parametrize(
    ("button", "status", "text"),
    [({}, Status.QUEUED, "launched"), ({"_fake": ""}, Status.APPLIED, "marked as applied")],
    ids=["launch", "fake"],
)
def test_what_was_never_launched_is_launched_from_a_page_of_its_own(db_alias, button, status, text):
    client = client_with("view", "run")

    page = client.get(address(ADD, db_alias)).content.decode()
    response = client.post(address(ADD, db_alias), {"key": KEY, "confirmed": "yes", **button})

    assert f'<option value="{KEY}">' in page
    assert said(response) == [("success", f"{KEY} was {text} on {db_alias}.")]
    assert status_of(db_alias) == status
    assert f'<option value="{KEY}">' not in client.get(address(ADD, db_alias)).content.decode()


@pytest.mark.parametrize(
    ("button", "question"),
    [
        ({}, "It deletes all rows of testapp.Item"),
        ({"_fake": ""}, "Marks the migration as applied without running it."),
    ],
    ids=["launch", "fake"],
)
def test_what_cannot_be_taken_back_is_asked_first(db_alias, monkeypatch, button, question):
    register(monkeypatch, Emptying)
    client = client_with("view", "run")

    page = client.post(address(ADD, db_alias), {"key": KEY, **button}).content.decode()

    assert question in page
    fields = {"key": KEY, **button, "confirmed": "yes"}
    assert all(f'<input type="hidden" name="{name}" value="{value}">' in page for name, value in fields.items())
    assert not MigrationRecord.objects.using(db_alias).exists()
    client.post(address(ADD, db_alias), fields)
    assert MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_nothing_is_launched_that_was_not_chosen(db_alias):
    client = client_with("view", "run")

    page = client.get(address(ADD, db_alias)).content.decode()
    response = client.post(address(ADD, db_alias), {"key": ""})

    assert '<select name="key" id="id_key" required><option value="">' in page
    assert [level for level, _ in said(response)] == ["error"]
    assert not MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("permissions", [["view", "control"], ["run"], ["run", "control"]], ids="-".join)
@pytest.mark.parametrize("button", [{}, {"_fake": "", "confirmed": "yes"}], ids=["launch", "fake"])
def test_launching_needs_its_permission_and_that_to_view(db_alias, permissions, button):
    client = client_with(*permissions)

    assert client.post(address(ADD, db_alias), {"key": KEY, **button}).status_code == 403
    assert client.get(address(ADD, db_alias)).status_code == 403
    assert not MigrationRecord.objects.using(db_alias).exists()
    assert "Launch a mass migration" not in client.get(address(LIST, db_alias)).content.decode()
