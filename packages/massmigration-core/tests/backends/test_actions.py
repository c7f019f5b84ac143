import dataclasses

import pytest
from django.contrib.messages import get_messages
from django.urls import reverse

from massmigration import api
from massmigration.backends.dummy import DummyBackend
from massmigration.checks import check_backends
from massmigration.exceptions import BackendActionFailed, MassMigrationError
from massmigration.models import Event, MigrationRecord
from massmigration.states import Status
from testsupport.actions import CALLED, LOOK, Offering, offer
from testsupport.factories import client_with

KEY = "testapp:9000_adhoc"
OTHER = "testapp:9001_other"
LIST = "admin:massmigration_migrationrecord_changelist"


@pytest.fixture(autouse=True)
def offering(settings, monkeypatch):
    offer(settings, monkeypatch)


@pytest.fixture
def client(db_alias):
    return client_with("view", "control")


def make(db_alias, key=KEY, **fields):
    return MigrationRecord.objects.using(db_alias).create(key=key, status=Status.RUNNING, **fields)


def act(client, db_alias, action, **data):
    return client.post(f"{reverse(LIST)}?db={db_alias}", {"action": action, "_selected_action": KEY, **data})


def said(response):
    return [(message.level_tag, message.message) for message in get_messages(response.wsgi_request)]


def test_what_a_backend_offers_asks_first_then_leaves_an_event(db_alias, client):
    make(db_alias)

    page = act(client, db_alias, "backend_look").content.decode()
    asked = list(CALLED)
    response = act(client, db_alias, "backend_look", confirmed="yes")

    assert "Look at the queue" in page
    assert "count what waits" in page
    assert asked == []
    assert CALLED == [([KEY], "ann")]
    assert said(response) == [("success", "Two jobs wait.")]
    event = Event.objects.using(db_alias).get()
    assert (event.verb, event.actor, event.detail) == ("look", "ann", "Two jobs wait.")


@pytest.mark.parametrize(
    ("error", "words"),
    [(ConnectionError("no broker"), "ConnectionError: no broker"), (MassMigrationError("Not now."), "Not now.")],
    ids=["unforeseen", "refusal"],
)
def test_what_a_backend_cannot_do_is_told_and_leaves_an_event(db_alias, client, monkeypatch, error, words):
    def fail(records, actor):
        raise error

    monkeypatch.setattr(Offering, "admin_actions", [dataclasses.replace(LOOK, call=fail, asks=False)])
    make(db_alias)

    response = act(client, db_alias, "backend_look")

    assert said(response) == [("error", f"'Look at the queue' failed for {KEY}: {words}")]
    assert Event.objects.using(db_alias).get().detail == f"failed: {words}"


def test_the_records_of_one_backend_are_given_to_it_together(db_alias):
    make(db_alias)
    make(db_alias, OTHER)

    assert api.perform_backend_action("look", [KEY, OTHER], db_alias, actor="code:test") == ["Two jobs wait."]

    assert CALLED == [([KEY, OTHER], "code:test")]
    assert Event.objects.using(db_alias).filter(verb="look").count() == 2


def test_what_a_backend_does_not_offer_is_refused_for_all(db_alias):
    make(db_alias)
    make(db_alias, OTHER, backend="massmigration.backends.dummy.DummyBackend")

    with pytest.raises(BackendActionFailed, match=f"The backend of migration '{OTHER}' has no action 'look'. Nothing"):
        api.perform_backend_action("look", [KEY, OTHER], db_alias)

    assert CALLED == []


def test_a_backend_that_is_gone_offers_nothing(db_alias):
    record = make(db_alias, OTHER, backend="missing.Backend")

    assert api.backend_actions([record]) == []


def test_actions_of_one_name_are_one_only_where_they_say_the_same(db_alias, monkeypatch):
    class Other(DummyBackend):
        admin_actions = [LOOK]

    backends = {KEY: Offering(), OTHER: Other()}
    monkeypatch.setattr("massmigration.backends.handler.backend_of_job", lambda key, path: backends[key])
    records = [make(db_alias), make(db_alias, OTHER)]

    together = {action.name: action.label for action in api.backend_actions(records)}
    monkeypatch.setattr(Other, "admin_actions", [dataclasses.replace(LOOK, description="empty it")])
    apart = {action.name: action.label for action in api.backend_actions(records)}
    api.perform_backend_action("look__Other", [OTHER], db_alias, actor="ann")

    assert together == {"look": "Look at the queue"}
    assert apart == {"look__Offering": "Look at the queue (Offering)", "look__Other": "Look at the queue (Other)"}
    assert Event.objects.using(db_alias).get(verb="look").key == OTHER
    with pytest.raises(BackendActionFailed, match=r"has no action 'look__Other'\. Nothing was changed"):
        api.perform_backend_action("look__Other", [KEY, OTHER], db_alias)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["look", "see"], ""),
        (["look", "look"], "with the same name, 'look'"),
        (["look at"], "named 'look at'"),
        (["a__b"], "named 'a__b'"),
        (["a" * 33], "at most"),
    ],
    ids=["good", "twice", "no-identifier", "qualified", "long"],
)
def test_actions_that_cannot_be_told_apart_are_a_check_error(monkeypatch, names, problem):
    actions = [dataclasses.replace(LOOK, name=name) for name in names]
    monkeypatch.setattr(Offering, "admin_actions", actions)

    found = [message.msg for message in check_backends([]) if message.id == "massmigration.E004"]

    assert (len(found), all(problem in text for text in found)) == (bool(problem), True)
