import getpass
import io

import pytest
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from massmigration.exceptions import MassMigrationError
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord
from massmigration.states import FINAL, Status
from massmigration.verbs import VERBS
from testsupport.inline_migrations import register
from testsupport.testapp.models import Item

KEY = "testapp:9000_adhoc"
LIST = "admin:massmigration_migrationrecord_changelist"
ADD = "admin:massmigration_migrationrecord_add"
RETRIED = {Status.FAILED, Status.CANCELLED}
ALLOWED = {
    "launch": {None},
    "pause": {Status.QUEUED, Status.RUNNING},
    "resume": {Status.PAUSED},
    "proceed": {Status.WAITING},
    "cancel": {Status.QUEUED, Status.RUNNING, Status.WAITING, Status.PAUSED},
    "retry": RETRIED,
    "restart": RETRIED,
    "fake": {None, Status.WAITING, Status.PAUSED, *RETRIED},
    "forget": {Status.WAITING, Status.PAUSED, *FINAL},
}
TARGETS = {
    "launch": "queued",
    "pause": "paused",
    "resume": "queued",
    "proceed": "running",
    "cancel": "cancelled",
    "retry": "queued",
    "restart": "queued",
    "fake": "applied",
    "forget": "",
}


class Migration(MapperMigration):
    def get_stages(self):
        return [*super().get_stages(), self.wait("Is it good?")]

    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        pass


def by_api(verb, db_alias):
    try:
        VERBS[verb].call(KEY, db_alias, actor="code:test")
    except MassMigrationError as error:
        return str(error)
    return None


def by_command(verb, db_alias):
    try:
        call_command("massmigration", verb, KEY, database=db_alias, interactive=False, stdout=io.StringIO())
    except CommandError as error:
        return str(error)
    return None


def by_admin(verb, db_alias):
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    is_recorded = MigrationRecord.objects.using(db_alias).exists()
    if verb == "launch" or not is_recorded:
        data = {"key": KEY, "confirmed": "yes", **({"_fake": ""} if verb == "fake" else {})}
        response = client.post(f"{reverse(ADD)}?db={db_alias}", data)
    else:
        data = {"action": verb, "_selected_action": KEY, "confirmed": "yes"}
        response = client.post(f"{reverse(LIST)}?db={db_alias}", data)
    (message,) = get_messages(response.wsgi_request)
    return message.message if message.level_tag == "error" else None


ACTORS = {by_api: "code:test", by_command: f"command:{getpass.getuser()}", by_admin: "ann"}
EDGES = pytest.mark.parametrize("edge", ACTORS, ids=lambda edge: edge.__name__)


@pytest.fixture(autouse=True)
def stopped(settings, monkeypatch):
    """A migration whose jobs no worker runs."""
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"
    register(monkeypatch, Migration)


def set_status(status, db_alias):
    if status is not None:
        stage = 1 if status is Status.WAITING else 0
        MigrationRecord.objects.using(db_alias).create(key=KEY, status=status, stage=stage)


@EDGES
@pytest.mark.parametrize(
    ("verb", "status"),
    [(verb, status) for verb, allowed in ALLOWED.items() for status in [None, *Status] if status in allowed],
)
def test_every_edge_gives_the_verb_and_leaves_its_event_with_the_actor(db_alias, edge, verb, status):
    set_status(status, db_alias)

    assert edge(verb, db_alias) is None

    event = Event.objects.using(db_alias).get()
    assert (event.verb, event.actor, event.to_status) == (verb, ACTORS[edge], TARGETS[verb])
    record = MigrationRecord.objects.using(db_alias).filter(key=KEY).first()
    assert (record.status if record else "") == TARGETS[verb]


@EDGES
@pytest.mark.parametrize(
    ("verb", "status"),
    [(verb, status) for verb, allowed in ALLOWED.items() for status in Status if status not in allowed],
)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_every_edge_refuses_the_verb_in_the_same_words(db_alias, edge, verb, status):
    set_status(status, db_alias)
    refusal = by_api(verb, db_alias)

    assert edge(verb, db_alias) == refusal is not None

    assert MigrationRecord.objects.using(db_alias).get().status == status
    assert not Event.objects.using(db_alias).exists()


@pytest.mark.parametrize("verb", [verb for verb, allowed in ALLOWED.items() if None not in allowed])
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_the_command_refuses_what_was_never_launched_in_the_words_of_the_api(db_alias, verb):
    assert by_command(verb, db_alias) == by_api(verb, db_alias) is not None
