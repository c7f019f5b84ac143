import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections
from django.db.models import F

from massmigration import api
from massmigration.dialects.errors import is_read_only
from massmigration.exceptions import (
    AlreadyLaunched,
    BadMigrationFile,
    DatabaseAccessDenied,
    DatabaseNotAllowed,
    DatabaseReadOnly,
    DependencyNotApplied,
    InvalidTransition,
    MigrationNotFound,
)
from massmigration.loader import store
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.states import ACTIVE, Status
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.factories import fail
from testsupport.inline_migrations import IMMEDIATE, launch, register, retry
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
    """Performs an operator action in its second batch, once."""

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
    "cancel": {Status.QUEUED, Status.RUNNING, Status.WAITING, Status.PAUSED},
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

    with pytest.raises(InvalidTransition, match=f"Cannot {verb} migration '{KEY}' on .*: its status is {status}; "):
        getattr(api, verb)(KEY, db_alias)

    assert MigrationRecord.objects.using(db_alias).get().status == status
    assert not Event.objects.using(db_alias).exists()


@pytest.mark.parametrize("verb", ALLOWED)
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_what_was_never_launched_allows_no_verb(db_alias, monkeypatch, verb):
    register(monkeypatch, Interrupted)

    with pytest.raises(InvalidTransition, match="it was never launched"):
        getattr(api, verb)(KEY, db_alias)


ADVICE = {
    Status.WAITING: "Proceed with it instead.",
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


def test_a_migration_is_not_launched_on_a_database_it_does_not_allow(db_alias, other_alias, monkeypatch):
    register(monkeypatch, type("Migration", (Interrupted,), {"allowed_db_aliases": [other_alias]}))

    with pytest.raises(DatabaseNotAllowed, match=f"not allowed on database '{db_alias}'; allowed: '{other_alias}'"):
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


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
@pytest.mark.parametrize("verb", [api.resume, api.retry, api.restart], ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("error", [MigrationNotFound, BadMigrationFile])
def test_what_no_worker_could_go_on_with_is_refused(db_alias, monkeypatch, verb, error):
    status = Status.PAUSED if verb is api.resume else Status.FAILED
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=status, is_planned=True)
    if error is BadMigrationFile:
        monkeypatch.setitem(store.errors, KEY, BadMigrationFile("Broken."))

    with pytest.raises(error):
        verb(KEY, db_alias)

    assert MigrationRecord.objects.using(db_alias).get().status == status
    assert not Event.objects.using(db_alias).exists()


def test_the_history_says_from_which_status_each_step_came(db_alias, places, monkeypatch):
    launch(register(monkeypatch, interrupted(api.pause)), db_alias)
    api.resume(KEY, db_alias)

    moves = Event.objects.using(db_alias).order_by("pk").values_list("verb", "from_status", "to_status")
    assert list(moves) == [
        ("launch", "", "queued"),
        ("plan", "queued", "running"),
        ("pause", "running", "paused"),
        ("resume", "paused", "running"),
        ("applied", "running", "applied"),
    ]


VERBS = {
    "launch": (None, {}),
    "fake": (None, {}),
    "pause": (Status.RUNNING, {}),
    "resume": (Status.PAUSED, {}),
    "cancel": (Status.RUNNING, {}),
    "retry": (Status.FAILED, {}),
    "restart": (Status.FAILED, {}),
    "retry_failed": (Status.FAILED, {}),
    "resolve": (Status.FAILED, {"reason": "none"}),
    "forget": (Status.FAILED, {}),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_database_that_takes_no_writes_refuses_every_verb_in_our_words(db_alias, monkeypatch, verb):
    status, options = VERBS[verb]
    register(monkeypatch, Interrupted)
    if status is not None:
        record = MigrationRecord.objects.using(db_alias).create(key=KEY, status=status, is_planned=True)
        fail(record, 1)
    with connections[db_alias].cursor() as cursor:
        cursor.execute("PRAGMA query_only = ON" if db_alias == "default" else DATABASE_SERVERS[db_alias].read_only)

    try:
        with pytest.raises(DatabaseReadOnly, match=f"Database '{db_alias}' is read-only .* Nothing was changed"):
            getattr(api, verb)(KEY, db_alias, **options)
    finally:
        connections[db_alias].close()

    found = MigrationRecord.objects.using(db_alias).values_list("status", flat=True)
    assert list(found) == ([] if status is None else [status])


@pytest.fixture
def reader(server_alias, monkeypatch):
    """The alias of a database whose user may read all tables, but write to none."""
    Place.objects.using(server_alias).create(name="place")
    owner = connections[server_alias]
    names = {"password": owner.settings_dict["PASSWORD"] or "reader", "name": owner.settings_dict["NAME"]}
    with owner.cursor() as cursor:
        for statement in DATABASE_SERVERS[server_alias].make_reader:
            cursor.execute(statement.format(**names))
    connection = owner.copy()
    connection.settings_dict = {
        **owner.settings_dict,
        "USER": f"{names['name']}_reader",
        "PASSWORD": names["password"],
    }
    connections[server_alias] = connection
    try:
        yield server_alias
    finally:
        connection.close()
        connections[server_alias] = owner
        with owner.cursor() as cursor:
            for statement in DATABASE_SERVERS[server_alias].drop_reader:
                cursor.execute(statement.format(**names))


@pytest.mark.parametrize("verb", ["launch", "fake"])
def test_a_user_who_may_not_write_is_refused_in_our_words(reader, monkeypatch, verb):
    register(monkeypatch, Interrupted)

    with pytest.raises(DatabaseAccessDenied, match=r"denied .* Nothing was changed. Grant the database user"):
        getattr(api, verb)(KEY, reader)


@pytest.mark.parametrize("options", [{}, {"fake": True}, {"dry_run": 1}], ids=["launch", "fake", "dry run"])
def test_a_command_of_a_user_who_may_not_write_ends_without_a_traceback(reader, monkeypatch, capsys, options):
    register(monkeypatch, Interrupted)

    # MariaDB locks the rows of a dry run even without the privilege to write them, so there the object fails.
    with pytest.raises((CommandError, SystemExit)) as raised:
        call_command("massmigrate", KEY, database=reader, interactive=False, **options)

    assert "denied" in str(raised.value) + capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OperationalError(1290, "running with the --read-only option so it cannot execute this statement"), True),
        (OperationalError(1290, "running with the --secure-file-priv option"), False),
        (OperationalError(1836, "Running in read-only mode"), True),
        (OperationalError(1205, "Lock wait timeout exceeded"), False),
        (ValueError("readonly database"), False),
    ],
    ids=["--read-only", "another option", "read-only mode", "lock", "no database error"],
)
def test_what_a_server_says_that_takes_no_writes(error, expected):
    assert is_read_only(error) is expected
