import datetime as dt
import threading
from functools import partial

import pytest
from django.db import DatabaseError, OperationalError, connections, transaction
from django.db.models import F

from massmigration.dialects import engine_transaction
from massmigration.dialects.errors import is_transient
from massmigration.exceptions import InsideTransaction
from massmigration.migrations import MapperMigration
from massmigration.models import Event
from massmigration.states import Status
from testsupport.concurrent_writers import elsewhere
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.inline_migrations import IMMEDIATE, launch, register
from testsupport.testapp.models import Call, Place, Tag
from testsupport.threads import PATIENCE

MINUTE = dt.timedelta(minutes=1)


def limit_of(db_alias, kind):
    """Return the session's limit `idle_limit` or `lock_limit`, without its unit."""
    with connections[db_alias].cursor() as cursor:
        cursor.execute(getattr(DATABASE_SERVERS[db_alias], kind))
        return str(cursor.fetchone()[0]).replace("1min", "60").rstrip("s")


def test_a_transaction_has_an_idle_limit_and_restores_the_old_one(server_alias, settings):
    settings.MASSMIGRATION_IDLE_LIMIT = MINUTE
    before = limit_of(server_alias, "idle_limit")

    with engine_transaction(server_alias):
        during = limit_of(server_alias, "idle_limit")

    assert during == "60" != before
    assert limit_of(server_alias, "idle_limit") == before


def test_a_transaction_that_fails_restores_the_limits(server_alias):
    before = limit_of(server_alias, "idle_limit"), limit_of(server_alias, "lock_limit")

    with pytest.raises(ZeroDivisionError), engine_transaction(server_alias, idle_limit=MINUTE, lock_wait=MINUTE):
        raise ZeroDivisionError

    assert (limit_of(server_alias, "idle_limit"), limit_of(server_alias, "lock_limit")) == before


def test_limits_that_were_set_by_others_are_restored(server_alias):
    with connections[server_alias].cursor() as cursor:
        cursor.execute(DATABASE_SERVERS[server_alias].limit_idle(7))

    with engine_transaction(server_alias, idle_limit=MINUTE):
        pass

    assert limit_of(server_alias, "idle_limit") == "7"
    connections[server_alias].close()


def test_the_limits_are_restored_before_the_functions_of_on_commit_which_may_take_longer(server_alias):
    before = limit_of(server_alias, "idle_limit"), limit_of(server_alias, "lock_limit")
    seen = []

    def look():
        seen.append((limit_of(server_alias, "idle_limit"), limit_of(server_alias, "lock_limit")))

    with engine_transaction(server_alias, idle_limit=MINUTE, lock_wait=MINUTE):
        transaction.on_commit(look, using=server_alias)

    assert seen == [before]


def test_what_others_commit_is_read_whatever_the_projects_isolation_level(server_alias, monkeypatch):
    if server_alias in ("mariadb", "mysql"):
        monkeypatch.setattr(connections[server_alias], "isolation_level", "repeatable read")
        with connections[server_alias].cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    with engine_transaction(server_alias):
        before = Place.objects.using(server_alias).count()
        elsewhere(lambda: Place.objects.using(server_alias).create(name="new")).join(PATIENCE)
        after = Place.objects.using(server_alias).count()
    connections[server_alias].close()

    assert (before, after) == (0, 1)


def test_a_lock_is_waited_for_no_longer_than_asked(server_alias):
    with engine_transaction(server_alias, lock_wait=dt.timedelta(seconds=7)):
        assert limit_of(server_alias, "lock_limit") == "7"


def test_a_transaction_that_sits_idle_is_ended_by_the_server(server_alias):
    place = Place.objects.using(server_alias).create(name="a")

    def sit_idle():
        with engine_transaction(server_alias, idle_limit=dt.timedelta(seconds=1)):
            Place.objects.using(server_alias).update(n=1)
            threading.Event().wait(1.3)
            Place.objects.using(server_alias).update(n=2)

    with pytest.raises(DatabaseError) as caught:
        sit_idle()

    place.refresh_from_db()
    assert is_transient(caught.value)
    assert place.n == 0


def test_a_transaction_refuses_to_be_a_part_of_another(db_alias):
    with (
        transaction.atomic(using=db_alias),
        pytest.raises(InsideTransaction, match=f"within a transaction on database '{db_alias}'"),
        engine_transaction(db_alias),
    ):
        pass


def test_a_transaction_that_need_not_be_durable_joins_another(db_alias):
    with transaction.atomic(using=db_alias), engine_transaction(db_alias, durable=False):
        Place.objects.using(db_alias).create(name="a")

    assert Place.objects.using(db_alias).count() == 1


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_on_sqlite_the_write_lock_is_taken_at_the_beginning(db_alias):
    refused = []

    def write():
        with connections[db_alias].cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 0")
        try:
            Place.objects.using(db_alias).create(name="a")
        except DatabaseError as error:
            refused.append(str(error))

    with engine_transaction(db_alias):
        elsewhere(write).join(PATIENCE)

    assert refused == ["database is locked"]


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_on_sqlite_other_transactions_begin_as_before(db_alias):
    with engine_transaction(db_alias):
        pass

    with transaction.atomic(using=db_alias):
        elsewhere(lambda: Place.objects.using(db_alias).create(name="a")).join(PATIENCE)

    assert Place.objects.using(db_alias).count() == 1


@pytest.mark.slow
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_on_sqlite_a_run_and_four_writers_never_find_the_database_locked(db_alias, monkeypatch, settings):
    class Counting(MapperMigration):
        batch_size = 200

        def get_queryset(self, db_alias):
            return Place.objects.all()

        def operation(self, obj, db_alias):
            Place.objects.using(db_alias).filter(pk=obj.pk).update(n=F("n") + 1)

    errors, ended, written = [], threading.Event(), []

    def write():
        while not ended.is_set():
            try:
                Tag.objects.using(db_alias).create(name="a")
            except DatabaseError as error:
                errors.append(error)
            written.append(1)
            ended.wait(0.002)

    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    Place.objects.using(db_alias).bulk_create(Place(name="a") for _ in range(6000))
    writers = [elsewhere(write) for _ in range(4)]

    record = launch(register(monkeypatch, Counting), db_alias)

    ended.set()
    for writer in writers:
        writer.join(PATIENCE)
    assert (record.status, errors) == (Status.APPLIED, [])
    assert len(written) > 8
    assert set(Place.objects.using(db_alias).values_list("n", flat=True)) == {1}


class Hooked(MapperMigration):
    """Logs each call, and logs it again after the commit, or raises there for some objects."""

    raises: Exception | None = None

    def get_queryset(self, db_alias):
        return Place.objects.all()

    def operation(self, obj, db_alias):
        Call.objects.using(db_alias).create(migration="operation", item=obj.n)
        transaction.on_commit(partial(self.after, obj, db_alias), using=db_alias)

    def after(self, obj, db_alias):
        if obj.n in (1, 3):
            raise self.raises
        Call.objects.using(db_alias).create(migration="hook", item=obj.n)


@pytest.mark.parametrize("error", [ValueError("bad"), OperationalError(1213, "Deadlock")], ids=["of code", "transient"])
def test_a_function_of_on_commit_that_raises_keeps_nothing_else_from_happening(
    db_alias, settings, monkeypatch, caplog, error
):
    settings.MASSMIGRATION_BACKEND = IMMEDIATE
    monkeypatch.setattr(Hooked, "raises", error)
    Place.objects.using(db_alias).bulk_create(Place(name=str(number), n=number) for number in range(5))

    record = launch(register(monkeypatch, Hooked), db_alias)

    assert (record.status, record.last_error) == (Status.APPLIED, "")
    calls = Call.objects.using(db_alias).order_by("item")
    assert list(calls.filter(migration="operation").values_list("item", flat=True)) == [0, 1, 2, 3, 4]
    assert list(calls.filter(migration="hook").values_list("item", flat=True)) == [0, 2, 4]
    event = Event.objects.using(db_alias).get(verb="on_commit failed")
    said = f"2 of the functions passed to on_commit raised an exception. The first: {type(error).__name__}"
    assert event.detail.startswith(said)
    assert caplog.text.count("registered with on_commit, raised an exception. The transaction is committed.") == 1


def test_a_function_of_on_commit_that_raises_leaves_the_transaction_committed(db_alias):
    told = []

    with engine_transaction(db_alias, on_hook_errors=told.append):
        Place.objects.using(db_alias).create(name="a")
        transaction.on_commit(lambda: 1 / 0, using=db_alias)

    assert Place.objects.using(db_alias).count() == 1
    assert [type(error) for (error,) in told] == [ZeroDivisionError]
