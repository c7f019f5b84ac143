import contextlib
import datetime as dt

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError, connections, transaction
from django.db.models import F

from massmigration import api
from massmigration.backends import worker
from massmigration.executor import errors
from massmigration.migrations import MapperMigration
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.states import Status
from testsupport.concurrent_writers import answer_lost, elsewhere, end_session, wait_for_waiter
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.db_sessions import session_id
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.models import Call, Place, Tag
from testsupport.threads import PATIENCE

ROWS = 30
RECOVERIES = 5
LONG_AGO = dt.datetime(2000, 1, 1, tzinfo=dt.timezone.utc)


@pytest.fixture(autouse=True)
def backend(settings):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE


@pytest.fixture
def places(request):
    alias = request.getfixturevalue("server_alias" if "server_alias" in request.fixturenames else "db_alias")
    Place.objects.using(alias).bulk_create(Place(name=f"place {number}") for number in range(ROWS))
    return alias


class Disturbed(MapperMigration):
    """Counts each place, and calls `disturb` at one of them, once."""

    batch_size = 10
    at = "place 15"

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
        if obj.name == self.at and not hasattr(self, "was_disturbed"):
            self.was_disturbed = True
            self.disturb(db_alias)


class ByFields(Disturbed):
    update_fields = ["note"]

    def operation(self, obj, db_alias):
        super().operation(obj, db_alias)
        obj.note = "seen"


def assert_all_done_once(db_alias, record):
    assert (record.status, record.last_error) == (Status.APPLIED, "")
    assert list(Place.objects.using(db_alias).values_list("n", flat=True)) == [1] * ROWS
    assert ShardRecord.objects.using(db_alias).get().processed == ROWS
    assert not FailedObject.objects.using(db_alias).exists()


def by_orm(db_alias, tag):
    Tag.objects.using(db_alias).filter(pk=tag).update(name="ours")


def by_cursor(db_alias, tag):
    with connections[db_alias].cursor() as cursor:
        cursor.execute("UPDATE testapp_tag SET name = 'ours' WHERE id = %s", [tag])


deadlocks = []
others = []


@pytest.fixture(autouse=True)
def watch():
    deadlocks.clear()
    yield
    while others:
        others.pop().join(PATIENCE)


def execute(db_alias, statements):
    with connections[db_alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def embrace(db_alias, update=by_orm):
    """Meet another transaction, which waits for this one's rows, in a deadlock that this one loses."""
    tag = Tag.objects.using(db_alias).get().pk
    others.append(elsewhere(lambda: hold(db_alias, tag)))
    wait_for_waiter(db_alias)
    try:
        execute(db_alias, DATABASE_SERVERS[db_alias].victim)
        update(db_alias, tag)
    except OperationalError as error:
        deadlocks.append(error)
        raise


def hold(db_alias, tag):
    """Change more rows than the migration's transaction, so that MySQL and MariaDB roll back the migration's."""
    with transaction.atomic(using=db_alias):
        execute(db_alias, DATABASE_SERVERS[db_alias].survivor)
        Tag.objects.using(db_alias).filter(pk=tag).update(name="theirs")
        Call.objects.using(db_alias).bulk_create(Call(migration="weight") for _ in range(500))
        Place.objects.using(db_alias).filter(name="place 10").update(note="theirs")


@pytest.fixture
def tag(places):
    return Tag.objects.using(places).create(name="held")


@pytest.mark.parametrize("way", [Disturbed, ByFields], ids=["object", "fields"])
def test_a_deadlock_is_tried_again_and_loses_nothing(server_alias, places, tag, monkeypatch, way):
    class Deadlocked(way):
        def disturb(self, db_alias):
            embrace(db_alias)

    record = launch(register(monkeypatch, Deadlocked), server_alias)

    assert len(deadlocks) == 1
    assert_all_done_once(server_alias, record)


def test_after_a_deadlock_the_next_try_has_half_the_rows(server_alias, places, tag, monkeypatch):
    begun_at = {}

    class Deadlocked(Disturbed):
        def operation(self, obj, db_alias):
            begun_at[obj.name] = ShardRecord.objects.using(db_alias).get().processed
            super().operation(obj, db_alias)

        def disturb(self, db_alias):
            embrace(db_alias)

    record = launch(register(monkeypatch, Deadlocked), server_alias)

    assert sorted(set(begun_at.values())) == [0, 10, 15, 25]
    assert_all_done_once(server_alias, record)


@pytest.mark.parametrize("batch_size", [12, None], ids=["given", "adapting"])
def test_how_far_a_batch_was_halved_outlives_its_job(db_alias, places, monkeypatch, settings, batch_size):
    settings.MASSMIGRATION_BATCH_SIZE = 12
    settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=2)  # the job comes back after a quarter of it
    monkeypatch.setattr(errors, "TRIES", 2)
    begun_at = []
    refusals = [OperationalError(1213, "Deadlock found when trying to get lock; try restarting transaction")] * 2

    class Refused(Disturbed):
        def operation(self, obj, db_alias):
            if refusals:
                raise refusals.pop()
            begun_at.append(ShardRecord.objects.using(db_alias).get().processed)
            super().operation(obj, db_alias)

    Refused.batch_size, Refused.at = batch_size, None

    record = launch(register(monkeypatch, Refused), db_alias)

    assert begun_at.count(0) == 3
    assert_all_done_once(db_alias, record)


@pytest.mark.parametrize("in_block", [False, True], ids=["bare", "in-a-block"])
@pytest.mark.parametrize("update", [by_orm, by_cursor])
@pytest.mark.parametrize("times", [1, 2], ids=["once", "in-the-replay-too"])
def test_a_swallowed_deadlock_loses_and_repeats_nothing(
    server_alias, places, tag, monkeypatch, in_block, update, times
):
    class Swallowing(Disturbed):
        disturbed = 0

        def operation(self, obj, db_alias):
            Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)
            if obj.name == self.at and self.disturbed < times:
                Swallowing.disturbed += 1
                block = transaction.atomic(using=db_alias) if in_block else contextlib.nullcontext()
                with contextlib.suppress(OperationalError), block:
                    embrace(db_alias, update)

    record = launch(register(monkeypatch, Swallowing), server_alias)

    # On PostgreSQL, an inner atomic block saves the operation. Elsewhere, the whole transaction is rolled back.
    assert len(deadlocks) == (1 if server_alias == "postgresql" and in_block else times)
    if server_alias == "postgresql" and times == 2 and not in_block:
        # PostgreSQL rolls nothing back by itself: the operation continues within a failed savepoint.
        assert record.status == Status.FAILED
        assert "without transaction.atomic()" in record.last_error
    else:
        assert_all_done_once(server_alias, record)


@pytest.mark.parametrize("way", [Disturbed, ByFields], ids=["object", "fields"])
def test_a_connection_lost_in_mid_batch_is_made_anew(server_alias, places, monkeypatch, way):
    class Killed(way):
        def disturb(self, db_alias):
            end_session(db_alias, session_id(db_alias))

    record = launch(register(monkeypatch, Killed), server_alias)

    assert_all_done_once(server_alias, record)


def test_a_connection_whose_loss_is_swallowed_is_made_anew(server_alias, places, monkeypatch):
    class Swallowing(Disturbed):
        def disturb(self, db_alias):
            end_session(db_alias, session_id(db_alias))
            with contextlib.suppress(DatabaseError, InterfaceError):
                Tag.objects.using(db_alias).count()

    record = launch(register(monkeypatch, Swallowing), server_alias)

    assert_all_done_once(server_alias, record)


def test_a_connection_lost_without_a_transaction_is_made_anew(server_alias, places, monkeypatch):
    class Killed(Disturbed):
        atomic = False

        def operation(self, obj, db_alias):
            if obj.name == self.at and not hasattr(self, "was_disturbed"):
                self.was_disturbed = True
                end_session(db_alias, session_id(db_alias))
            Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)

    record = launch(register(monkeypatch, Killed), server_alias)

    assert_all_done_once(server_alias, record)


LOST = {
    "default": OperationalError("database is locked"),
    "postgresql": OperationalError("server closed the connection unexpectedly"),
    "mariadb": OperationalError(2013, "Lost connection to MySQL server during query"),
    "mysql": OperationalError(2013, "Lost connection to MySQL server during query"),
}


@pytest.mark.parametrize("at", range(1, 8), ids=["launch", "plan", "claim", "first", "second", "third", "finish"])
def test_a_commit_whose_answer_was_lost_is_not_repeated(db_alias, places, monkeypatch, settings, at):
    settings.MASSMIGRATION_LEASE = dt.timedelta(milliseconds=200)  # a claim waits until it expires
    # Otherwise recovery would add commits on a busy machine.
    monkeypatch.setattr(worker, "is_due", lambda name, db_alias=None: False)
    key = register(monkeypatch, type("Migration", (Disturbed,), {"at": None}))

    with answer_lost(db_alias, LOST[db_alias], at=at) as commits, contextlib.suppress(OperationalError):
        launch(key, db_alias)

    assert at in commits
    assert_all_done_once(db_alias, recovered(db_alias))


def recovered(db_alias):
    """Return the record once recovery has brought it to its end."""
    for _ in range(RECOVERIES):
        record = MigrationRecord.objects.using(db_alias).get()
        if record.status == Status.APPLIED:
            return record
        expire(db_alias)
        api.recover(db_alias)
    return record


def expire(db_alias):
    """Set all times to long ago. On a busy machine, a short lease could expire too early by itself."""
    ShardRecord.objects.using(db_alias).update(lease_until=LONG_AGO, next_send_at=LONG_AGO, heartbeat_at=LONG_AGO)
    MigrationRecord.objects.using(db_alias).update(next_send_at=LONG_AGO)
