import pytest
from django.db import connections
from django.db.models import F

from massmigration import api
from massmigration.exceptions import (
    AlreadyLaunched,
    DatabaseNotAllowed,
    DependencyNotApplied,
    InvalidTransition,
    MigrationNotFound,
)
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.states import ACTIVE, Status
from testsupport.adhoc import IMMEDIATE, launch, register, retry
from testsupport.testapp.models import Place

ROWS = 25
KEY = "testapp:9000_adhoc"


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def places(db_alias):
    Place.objects.using(db_alias).bulk_create(Place(name=f"place {number}") for number in range(ROWS))


class Interrupted(MapperMigration):
    """Gives an operator's verb in its second batch, once."""

    batch_size = 10

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
        if obj.name == "place 12" and not hasattr(self, "was_given"):
            self.was_given = True
            self.verb(KEY, db_alias, actor="ann")


def interrupted(verb):
    return type("Migration", (Interrupted,), {"verb": staticmethod(verb)})


def counts(db_alias):
    return list(Place.objects.using(db_alias).order_by("pk").values_list("n", flat=True))


@pytest.mark.parametrize(("verb", "status"), [(api.pause, Status.PAUSED), (api.cancel, Status.CANCELLED)])
def test_a_verb_holds_from_the_next_batch_on(db_alias, places, monkeypatch, verb, status):
    record = launch(register(monkeypatch, interrupted(verb)), db_alias)

    assert record.status == status
    assert counts(db_alias) == [1] * 20 + [0] * 5
    assert ShardRecord.objects.using(db_alias).get().lease_token is None


def test_a_resume_goes_on_after_the_last_batch(db_alias, places, monkeypatch):
    launch(register(monkeypatch, interrupted(api.pause)), db_alias)

    api.resume(KEY, db_alias, actor="bob")

    assert MigrationRecord.objects.using(db_alias).get().status == Status.APPLIED
    assert counts(db_alias) == [1] * ROWS


def test_a_retry_of_a_cancelled_migration_goes_on_from_its_cursors(db_alias, places, monkeypatch):
    first = launch(register(monkeypatch, interrupted(api.cancel)), db_alias)

    record = retry(KEY, db_alias)

    assert record.status == Status.APPLIED
    assert record.attempt_id != first.attempt_id
    assert counts(db_alias) == [1] * ROWS


def test_every_verb_is_an_event_with_its_actor(db_alias, places, monkeypatch):
    launch(register(monkeypatch, interrupted(api.pause)), db_alias)
    api.cancel(KEY, db_alias, actor="bob")
    api.retry(KEY, db_alias, actor="eve")

    events = Event.objects.using(db_alias).exclude(actor="").order_by("pk")
    assert list(events.values_list("verb", "actor", "from_status", "to_status")) == [
        ("launch", "code:test", "", "queued"),
        ("pause", "ann", "running", "paused"),
        ("cancel", "bob", "paused", "cancelled"),
        ("retry", "eve", "cancelled", "running"),
    ]
    assert {event.key for event in events} == {KEY}
    assert all(event.at for event in events)


ALLOWED = {
    "pause": {Status.QUEUED, Status.RUNNING},
    "resume": {Status.PAUSED},
    "cancel": {Status.QUEUED, Status.RUNNING, Status.PAUSED},
    "retry": {Status.FAILED, Status.CANCELLED},
}
REFUSALS = [(verb, status) for verb, allowed in ALLOWED.items() for status in Status if status not in allowed]


@pytest.fixture
def record(db_alias, monkeypatch):
    register(monkeypatch, Interrupted)
    return MigrationRecord.objects.using(db_alias).create(key=KEY)


@pytest.mark.parametrize(("verb", "status"), REFUSALS)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_verb_that_the_status_does_not_allow_is_refused(db_alias, record, verb, status):
    MigrationRecord.objects.using(db_alias).update(status=status)

    with pytest.raises(InvalidTransition, match=f"Cannot {verb} migration '{KEY}' on .*: it is {status}; only one"):
        getattr(api, verb)(KEY, db_alias)

    assert MigrationRecord.objects.using(db_alias).get().status == status
    assert not Event.objects.using(db_alias).exists()


@pytest.mark.parametrize("verb", ALLOWED)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_what_was_never_launched_allows_no_verb(db_alias, monkeypatch, verb):
    register(monkeypatch, Interrupted)

    with pytest.raises(InvalidTransition, match="it is not launched"):
        getattr(api, verb)(KEY, db_alias)


ADVICE = {
    Status.PAUSED: "Resume it instead.",
    Status.FAILED: "Retry it instead.",
    Status.CANCELLED: "Retry it instead.",
    Status.APPLIED: "There is nothing left to do.",
    **dict.fromkeys(ACTIVE, "Watch it, or pause it."),
}


@pytest.mark.parametrize("status", Status)
def test_a_second_launch_is_refused_with_what_to_do_instead(db_alias, record, status):
    MigrationRecord.objects.using(db_alias).update(status=status)

    with pytest.raises(AlreadyLaunched) as caught:
        api.launch(KEY, db_alias)

    assert str(caught.value) == (
        f"Migration '{KEY}' is already {status.value} on database '{db_alias}'. {ADVICE[status]}"
    )


def test_an_unknown_migration_is_not_launched(db_alias):
    with pytest.raises(MigrationNotFound, match=r"found no file massmigrations/0099_missing.py in app 'testapp'"):
        api.launch("testapp:0099_missing", db_alias)


def test_a_migration_is_not_launched_on_a_database_it_does_not_allow(db_alias, monkeypatch):
    other = next(alias for alias in connections if alias != db_alias)
    register(monkeypatch, type("Migration", (Interrupted,), {"allowed_db_aliases": [other]}))

    with pytest.raises(DatabaseNotAllowed, match=f"not allowed on database '{db_alias}'; allowed: '{other}'"):
        api.launch(KEY, db_alias)

    assert not MigrationRecord.objects.using(db_alias).exists()


@pytest.mark.parametrize("status", [None, *(status for status in Status if status != Status.APPLIED)])
def test_a_migration_is_not_launched_before_what_it_depends_on_is_applied(db_alias, monkeypatch, status):
    register(monkeypatch, type("Migration", (Interrupted,), {"dependencies": [("testapp", "0001_once")]}))
    if status is not None:
        MigrationRecord.objects.using(db_alias).create(key="testapp:0001_once", status=status)

    with pytest.raises(DependencyNotApplied) as caught:
        api.launch(KEY, db_alias)

    found = "not run" if status is None else status.value
    assert f"it depends on 'testapp:0001_once' ({found}), which must be applied first" in str(caught.value)


def test_a_migration_is_launched_after_what_it_depends_on(db_alias, monkeypatch):
    key = register(monkeypatch, type("Migration", (Interrupted,), {"dependencies": [("testapp", "0001_once")]}))
    MigrationRecord.objects.using(db_alias).create(key="testapp:0001_once", status=Status.APPLIED)

    assert launch(key, db_alias).status == Status.APPLIED
