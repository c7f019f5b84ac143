import datetime as dt
import threading

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.models import F

from massmigration.exceptions import InsideTransaction
from massmigration.migrations import MapperMigration
from massmigration.states import Status
from massmigration.transactions import engine_transaction
from massmigration.transient import is_transient
from testsupport.adhoc import IMMEDIATE, launch, register
from testsupport.interference import elsewhere
from testsupport.testapp.models import Place, Tag

MINUTE = dt.timedelta(minutes=1)
IDLE = {
    "postgresql": "SHOW idle_in_transaction_session_timeout",
    "mariadb": "SELECT @@SESSION.idle_transaction_timeout",
}
LOCK = {"postgresql": "SHOW lock_timeout", "mariadb": "SELECT @@SESSION.innodb_lock_wait_timeout"}


def ask(db_alias, queries):
    with connections[db_alias].cursor() as cursor:
        cursor.execute(queries[db_alias])
        return str(cursor.fetchone()[0])


def test_a_transaction_has_an_idle_limit_and_restores_the_old_one(server_alias, settings):
    settings.MASSMIGRATION_IDLE_LIMIT = MINUTE
    before = ask(server_alias, IDLE)

    with engine_transaction(server_alias):
        during = ask(server_alias, IDLE)

    assert during == {"postgresql": "1min", "mariadb": "60"}[server_alias]
    assert ask(server_alias, IDLE) == before == "0"


def test_a_transaction_that_fails_restores_the_limits(server_alias):
    before = ask(server_alias, IDLE), ask(server_alias, LOCK)

    with pytest.raises(ZeroDivisionError), engine_transaction(server_alias, idle_limit=MINUTE, lock_wait=MINUTE):
        raise ZeroDivisionError

    assert (ask(server_alias, IDLE), ask(server_alias, LOCK)) == before


def test_limits_that_were_set_by_others_are_restored(server_alias):
    value = {"postgresql": "idle_in_transaction_session_timeout = 7000", "mariadb": "idle_transaction_timeout = 7"}
    with connections[server_alias].cursor() as cursor:
        cursor.execute(f"SET SESSION {value[server_alias]}")

    with engine_transaction(server_alias, idle_limit=MINUTE):
        pass

    assert ask(server_alias, IDLE).rstrip("s") == "7"
    connections[server_alias].close()


def test_what_others_commit_is_read_whatever_the_projects_isolation_level(server_alias, monkeypatch):
    if server_alias == "mariadb":
        monkeypatch.setattr(connections[server_alias], "isolation_level", "repeatable read")
        with connections[server_alias].cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    with engine_transaction(server_alias):
        before = Place.objects.using(server_alias).count()
        elsewhere(lambda: Place.objects.using(server_alias).create(name="new")).join(10)
        after = Place.objects.using(server_alias).count()
    connections[server_alias].close()

    assert (before, after) == (0, 1)


def test_a_lock_is_waited_for_no_longer_than_asked(server_alias):
    with engine_transaction(server_alias, lock_wait=dt.timedelta(seconds=7)):
        assert ask(server_alias, LOCK).rstrip("s") == "7"


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
        elsewhere(write).join(10)

    assert refused == ["database is locked"]


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_on_sqlite_other_transactions_begin_as_before(db_alias):
    with engine_transaction(db_alias):
        pass

    with transaction.atomic(using=db_alias):
        elsewhere(lambda: Place.objects.using(db_alias).create(name="a")).join(10)

    assert Place.objects.using(db_alias).count() == 1


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
        writer.join(30)
    assert (record.status, errors) == (Status.APPLIED, [])
    assert len(written) > 8
    assert set(Place.objects.using(db_alias).values_list("n", flat=True)) == {1}
