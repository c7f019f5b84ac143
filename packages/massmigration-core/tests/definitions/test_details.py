"""The details and actions that a migration defines itself, and the actions that it refuses, at every edge."""

import datetime as dt
import io
import json

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command
from django.urls import reverse

from massmigration import api
from massmigration.exceptions import (
    ActionFailed,
    ActionRefused,
    BadMigrationFile,
    InvalidTransition,
    MassMigrationError,
    MigrationNotFound,
)
from massmigration.migrations import Detail, MigrationAction, SimpleMigration
from massmigration.models import Event, MigrationRecord
from massmigration.states import Status
from massmigration.verbs import VERBS
from testsupport.factories import client_with, get, text_of
from testsupport.inline_migrations import register
from testsupport.marks import only_sqlite

DUMMY = "massmigration.backends.dummy.DummyBackend"
KEY = "testapp:9000_adhoc"


class Migration(SimpleMigration):
    """Has details and an action."""

    found = (
        Detail(label="Rows in the log", value=1234, level="warning"),
        Detail(label="Blocked by", value="ann's session", is_sensitive=True),
    )
    refuses = ""
    result = "All dropped."
    irreversible = False

    def operation(self, db_alias):
        pass

    def get_details(self, db_alias):
        return self.found

    def get_actions(self, db_alias, status):
        if status is Status.APPLIED:
            return []
        return [
            MigrationAction(
                name="tidy",
                label="Tidy up",
                description="Drops everything.",
                call=self.tidy,
                permission="run",
                is_irreversible=self.irreversible,
            )
        ]

    def tidy(self, db_alias, actor):
        if isinstance(self.result, Exception):
            raise self.result
        type(self).actor = actor
        return self.result

    def check_action(self, action, db_alias):
        if action == self.refuses:
            raise ActionRefused(f"Cannot {action} {self.key} on {db_alias}: there are triggers. Tidy up first.")


@pytest.fixture
def migration(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DUMMY
    cls = type("Migration", (Migration,), {})
    register(monkeypatch, cls)
    return cls


def make(db_alias, status=Status.RUNNING):
    return MigrationRecord.objects.using(db_alias).create(key=KEY, status=status)


def run(*arguments, **options):
    stdout = io.StringIO()
    call_command("massmigration", *arguments, stdout=stdout, **options)
    return stdout.getvalue()


# Actions.


def test_an_action_is_performed_and_recorded(db_alias, migration):
    record = make(db_alias)

    assert [action.name for action in api.migration_actions(KEY, db_alias)] == ["tidy"]
    assert api.perform_action("tidy", KEY, db_alias, actor="ann") == "All dropped."

    event = Event.objects.using(db_alias).get()
    assert (event.verb, event.actor, event.detail, event.attempt_id) == (
        *("tidy", "ann", "All dropped."),
        record.attempt_id,
    )
    assert migration.actor == "ann"


def test_an_action_needs_no_record(db_alias, migration):
    api.perform_action("tidy", KEY, db_alias)

    assert Event.objects.using(db_alias).get().attempt_id is None


@only_sqlite
def test_an_action_that_is_not_offered_now_is_not_performed(db_alias, migration):
    make(db_alias, Status.APPLIED)

    with pytest.raises(InvalidTransition, match="does not offer the action 'tidy' on database 'default' now"):
        api.perform_action("tidy", KEY, db_alias)

    assert not Event.objects.using(db_alias).exists()


@only_sqlite
def test_an_action_that_fails_is_recorded(db_alias, migration):
    migration.result = ValueError("no such table")

    with pytest.raises(ActionFailed, match="'Tidy up' of migration 'testapp:9000_adhoc' failed: ValueError: no such"):
        api.perform_action("tidy", KEY, db_alias)

    assert Event.objects.using(db_alias).get().detail == "failed: ValueError: no such table"


@only_sqlite
def test_a_refusal_of_an_action_keeps_its_words_and_class(db_alias, migration):
    migration.result = ActionRefused("Not while it copies.")

    with pytest.raises(ActionRefused, match=r"^Not while it copies\.$"):
        api.perform_action("tidy", KEY, db_alias)


@only_sqlite
def test_there_are_no_actions_without_a_file(db_alias):
    assert api.migration_actions("testapp:no_such", db_alias) == []
    with pytest.raises(MigrationNotFound):
        api.perform_action("tidy", "testapp:no_such", db_alias)


def action(**fields):
    given = {"name": "tidy", "label": "Tidy", "description": "", "call": print}
    return MigrationAction(**{**given, **fields})


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ([action(name="two words")], "has an action named 'two words'; a name is an identifier"),
        ([action(name="a" * 33)], "a name is an identifier of at most 32 characters"),
        *(([action(name=name)], f"has an action named '{name}'") for name in [*VERBS, "recover", "status"]),
        ([action(permission="view")], "has the permission 'view'; allowed: 'run', 'control', 'forget'"),
        ([action(), action()], "has several actions named 'tidy'"),
        (["tidy"], "it must return a list of MigrationAction"),
    ],
)
@only_sqlite
def test_an_impossible_action_is_a_bad_file(db_alias, migration, actions, words):
    migration.get_actions = lambda self, db_alias, status: actions

    with pytest.raises(BadMigrationFile, match=words):
        api.migration_actions(KEY, db_alias)


# The command.


def test_the_command_performs_an_action(db_alias, migration):
    make(db_alias)

    assert run("tidy", KEY, database=db_alias) == "All dropped.\n"
    assert Event.objects.using(db_alias).get().source == "command"


@only_sqlite
def test_the_command_asks_before_what_cannot_be_undone(db_alias, migration, monkeypatch):
    migration.irreversible = True
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")

    with pytest.raises(CommandError, match="Nothing was changed"):
        run("tidy", KEY)

    assert "Drops everything." in asked[0]
    assert run("tidy", KEY, interactive=False) == "All dropped.\n"


@only_sqlite
def test_the_command_names_the_actions_that_there_are(db_alias, migration):
    with pytest.raises(CommandError, match=r"has no action 'tidi' now; it has: launch, .*status, tidy\."):
        run("tidi", KEY)


def test_the_command_shows_details_and_actions(db_alias, migration):
    make(db_alias)

    shown = run("status", KEY, database=db_alias)
    found = json.loads(run("status", KEY, database=db_alias, format="json"))

    assert "    Rows in the log: 1 234 (warning)\n    Blocked by: ann's session\n" in shown
    assert "    tidy: Drops everything.\n" in shown
    assert found["status"] == "running"
    assert found["details"] == [
        {"label": "Rows in the log", "value": 1234, "level": "warning"},
        {"label": "Blocked by", "value": "ann's session", "level": "info"},
    ]
    assert found["actions"] == [{"name": "tidy", "label": "Tidy up", "description": "Drops everything."}]


AT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)


@pytest.mark.parametrize(
    ("value", "text", "in_json"),
    [
        (None, "not known", None),
        (1234567, "1 234 567", 1234567),
        (0.25, "0.25", 0.25),
        (True, "True", True),
        (dt.timedelta(minutes=3), "3 min 0 s", 180.0),
        (AT, None, "2026-01-02T03:04:05+00:00"),
    ],
)
@only_sqlite
def test_a_detail_can_be_any_fact(db_alias, migration, value, text, in_json):
    migration.found = [Detail(label="Fact", value=value)]

    assert json.loads(run("status", KEY, format="json"))["details"][0]["value"] == in_json
    assert f"    Fact: {text or ''}" in run("status", KEY)


@pytest.mark.parametrize("found", [["text"], [Detail(label="Fact", value=1, level="bad")], None])
@only_sqlite
def test_details_that_cannot_be_shown_do_not_hide_the_rest(db_alias, migration, found):
    make(db_alias)
    migration.found = found

    assert "get_details() raised" in run("status", KEY)
    assert "tidy: Drops everything." in run("status", KEY)


@only_sqlite
def test_a_database_that_the_migration_does_not_allow_has_no_details(db_alias, migration):
    migration.allowed_db_aliases = ["postgresql"]

    found = json.loads(run("status", KEY, format="json"))

    assert (found["details"], found["actions"]) == ([], [])
    assert "Rows in the log" not in run("status", KEY)


# Pages.


def test_the_page_shows_details_and_offers_actions(db_alias, migration):
    make(db_alias)
    client = client_with("view", "run", "inspect")

    page = text_of(get(client, "detail", KEY, db_alias))
    found = get(client, "status", KEY, db_alias).json()

    assert "Rows in the log" in page
    assert "1,234" in page
    assert "Blocked by" in page
    assert reverse("massmigration_action", args=["tidy", KEY, db_alias]) in page
    assert found["details"][0] == {"label": "Rows in the log", "value": 1234, "level": "warning"}
    assert found["actions"] == ["tidy"]
    assert "Tidy up" in found["parts"]["actions"]


@only_sqlite
def test_who_may_only_look_sees_no_sensitive_detail_and_no_action(db_alias, migration):
    make(db_alias)
    client = client_with("view", "control")

    page = text_of(get(client, "detail", KEY, db_alias))
    found = get(client, "status", KEY, db_alias).json()

    assert "Rows in the log" in page
    for hidden in ("Blocked by", "Tidy up"):
        assert hidden not in page
        assert hidden not in json.dumps(found)


@only_sqlite
def test_the_page_performs_an_action_after_a_question(db_alias, migration):
    make(db_alias)
    client = client_with("view", "run")
    address = reverse("massmigration_action", args=["tidy", KEY, db_alias])

    asked = text_of(client.get(address))
    answered = client.post(address, follow=True)

    assert "Drops everything." in asked
    assert "All dropped." in text_of(answered)
    event = Event.objects.get()
    assert (event.verb, event.actor, event.source) == ("tidy", "ann", "page")
    assert LogEntry.objects.get().change_message == "Tidy up. [default]"


@only_sqlite
def test_what_cannot_be_undone_is_confirmed_by_the_name(db_alias, migration):
    migration.irreversible = True
    record = make(db_alias)
    client = client_with("view", "run")
    address = reverse("massmigration_action", args=["tidy", KEY, db_alias])

    refused = client.post(address, {"typed": "yes", "seen": f"{record.attempt_id} running"})
    outdated = client.post(address, {"typed": "9000_adhoc", "seen": f"{record.attempt_id} queued"})

    assert not Event.objects.exists()
    assert "Nothing was changed: type 9000_adhoc" in text_of(refused)
    assert "has changed since you opened" in text_of(outdated)

    client.post(address, {"typed": "9000_adhoc", "seen": f"{record.attempt_id} running"})

    assert Event.objects.get().verb == "tidy"


@only_sqlite
def test_an_action_needs_its_permission_and_a_token(db_alias, migration):
    make(db_alias)
    address = reverse("massmigration_action", args=["tidy", KEY, db_alias])
    client = client_with("view", "control", "forget")

    assert client.post(address).status_code == 403
    client.handler.enforce_csrf_checks = True
    assert client.post(address).status_code == 403
    assert not Event.objects.exists()


@only_sqlite
def test_an_action_without_a_token_is_refused(db_alias, migration):
    make(db_alias)
    client = client_with("view", "run")
    client.handler.enforce_csrf_checks = True

    assert client.post(reverse("massmigration_action", args=["tidy", KEY, db_alias])).status_code == 403
    assert not Event.objects.exists()


@only_sqlite
def test_an_action_that_is_gone_is_told(db_alias, migration):
    make(db_alias, Status.APPLIED)

    response = client_with("view", "run").post(
        reverse("massmigration_action", args=["tidy", KEY, db_alias]), follow=True
    )

    assert "This action is not possible now." in text_of(response)


@only_sqlite
def test_a_page_shows_the_rest_if_the_code_raises(db_alias, migration):
    make(db_alias)

    def broken(self, *arguments):
        raise ValueError("no such table")

    migration.get_details = migration.get_actions = broken
    inspector = client_with("view", "inspect")

    page = text_of(get(inspector, "detail", KEY, db_alias))

    assert "get_details() raised ValueError: no such table" in page
    assert "get_actions() raised ValueError: no such table" in page


# Refused actions.

ACTIONS = {
    "launch": None,
    "resume": Status.PAUSED,
    "retry": Status.FAILED,
    "restart": Status.FAILED,
    "fake": Status.FAILED,
    "forget": Status.FAILED,
}


@pytest.mark.parametrize("name", ACTIONS)
def test_a_migration_can_refuse_actions(db_alias, migration, name):
    migration.refuses = name
    if ACTIONS[name]:
        make(db_alias, ACTIONS[name])

    with pytest.raises(ActionRefused, match=f"Cannot {name} {KEY} on {db_alias}: there are triggers"):
        getattr(api, name)(KEY, db_alias)

    found = MigrationRecord.objects.using(db_alias).values_list("status", flat=True)
    assert list(found) == ([ACTIONS[name]] if ACTIONS[name] else [])
    assert not Event.objects.using(db_alias).exists()


@only_sqlite
def test_a_migration_can_refuse_to_proceed(db_alias, migration):
    migration.get_stages = lambda self: [self.wait("Now?")]
    migration.refuses = "proceed"
    make(db_alias, Status.WAITING)

    with pytest.raises(ActionRefused):
        api.proceed(KEY, db_alias)

    assert MigrationRecord.objects.get().status == Status.WAITING


@only_sqlite
def test_a_retry_of_single_objects_is_a_retry(db_alias, migration):
    migration.refuses = "retry"
    make(db_alias, Status.FAILED)

    with pytest.raises(ActionRefused):
        api.retry_failed(KEY, db_alias)


@pytest.mark.parametrize("name", ["pause", "cancel"])
@only_sqlite
def test_a_migration_cannot_refuse_to_stop(db_alias, migration, name):
    migration.refuses = name
    make(db_alias)

    getattr(api, name)(KEY, db_alias)

    assert MigrationRecord.objects.get().status != Status.RUNNING


@only_sqlite
def test_a_record_without_a_file_can_be_forgotten(db_alias):
    MigrationRecord.objects.create(key="testapp:0999_gone", status=Status.FAILED)

    api.forget("testapp:0999_gone", db_alias)

    assert not MigrationRecord.objects.exists()


@only_sqlite
def test_every_edge_refuses_in_the_words_of_the_migration(db_alias, migration):
    migration.refuses = "forget"
    record = make(db_alias, Status.FAILED)
    words = f"Cannot forget {KEY} on default: there are triggers. Tidy up first."
    address = reverse("massmigration_action", args=["forget", KEY, db_alias])

    page = client_with("view", "forget").post(
        address, {"typed": "9000_adhoc", "seen": f"{record.attempt_id} failed"}, follow=True
    )
    with pytest.raises(CommandError) as caught:
        run("forget", KEY, interactive=False)

    assert words in text_of(page)
    assert str(caught.value) == words
    assert issubclass(ActionRefused, MassMigrationError)
