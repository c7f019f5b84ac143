import threading
import time

import pytest
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connections, transaction

from massmigration.transient import is_transient
from testsupport.interference import elsewhere, end_session, session_id
from testsupport.testapp.models import Person, Place

CONNECTION_ERRORS = (DatabaseError, InterfaceError)


def execute(db_alias, *statements):
    with connections[db_alias].cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def error_of(call):
    with pytest.raises(CONNECTION_ERRORS) as caught:
        call()
    return caught.value


def touch(db_alias, name):
    Place.objects.using(db_alias).filter(name=name).update(n=1)


@pytest.fixture
def places(server_alias):
    Place.objects.using(server_alias).bulk_create(Place(name=name) for name in "ab")


@pytest.fixture
def held(server_alias, places):
    """Another connection that holds a row's lock until it is told to go on, and then wants the other's."""
    holds, may_go_on = threading.Event(), threading.Event()

    def hold():
        try:
            with transaction.atomic(using=server_alias):
                touch(server_alias, "a")
                holds.set()
                may_go_on.wait(10)
                touch(server_alias, "b")
        except DatabaseError:
            assert may_go_on.is_set()

    thread = elsewhere(hold)
    assert holds.wait(10)
    yield may_go_on
    may_go_on.set()
    thread.join(10)


def test_a_deadlock_passes(server_alias, held):
    def embrace():
        with transaction.atomic(using=server_alias):
            if server_alias == "postgresql":
                # Who waits for this long looks for a deadlock, and is its victim.
                execute(server_alias, "SET LOCAL deadlock_timeout = '1ms'")
            else:
                execute(server_alias, "SET SESSION innodb_lock_wait_timeout = 10")
            touch(server_alias, "b")
            held.set()
            time.sleep(0.2)
            touch(server_alias, "a")

    # MariaDB chooses as victim whoever has changed less; the other one has as much, and is the older.
    assert is_transient(error_of(embrace))


def test_a_lock_that_is_not_given_passes(server_alias, held):
    limit = "lock_timeout = '50ms'" if server_alias == "postgresql" else "innodb_lock_wait_timeout = 1"

    def wait():
        execute(server_alias, f"SET SESSION {limit}")
        touch(server_alias, "a")

    error = error_of(wait)

    connections[server_alias].close()
    assert is_transient(error)


def test_a_row_that_somebody_has_locked_passes(server_alias, held):
    def ask():
        with transaction.atomic(using=server_alias):
            Place.objects.using(server_alias).select_for_update(nowait=True).get(name="a")

    assert is_transient(error_of(ask))


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_serialization_failure_passes(server_alias, places):
    def conflict():
        with transaction.atomic(using=server_alias):
            execute(server_alias, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            list(Place.objects.using(server_alias).all())
            elsewhere(lambda: touch(server_alias, "a")).join(10)
            touch(server_alias, "a")

    assert is_transient(error_of(conflict))


def test_a_killed_connection_passes(server_alias, places):
    def go_on():
        with transaction.atomic(using=server_alias):
            end_session(server_alias, session_id(server_alias))
            touch(server_alias, "a")

    assert is_transient(error_of(go_on))


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_connection_that_is_known_to_be_closed_passes(server_alias, places):
    def go_on():
        with transaction.atomic(using=server_alias):
            connections[server_alias].connection.close()
            touch(server_alias, "a")

    error = error_of(go_on)

    connections[server_alias].close()
    assert is_transient(error)


def test_a_transaction_that_sat_idle_for_too_long_passes(server_alias, places):
    limit = (
        "idle_in_transaction_session_timeout = 50" if server_alias == "postgresql" else "idle_transaction_timeout = 1"
    )

    def sleep():
        execute(server_alias, f"SET SESSION {limit}")
        with transaction.atomic(using=server_alias):
            touch(server_alias, "a")
            time.sleep(0.2 if server_alias == "postgresql" else 1.5)
            touch(server_alias, "a")

    assert is_transient(error_of(sleep))


def test_a_server_that_cannot_be_reached_passes(server_alias, monkeypatch):
    def connect():
        connection = connections[server_alias].copy(server_alias)
        connection.settings_dict = {**connection.settings_dict, "PORT": "1"}
        connection.ensure_connection()

    assert is_transient(error_of(connect))


@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_a_locked_sqlite_passes(db_alias):
    locked, done = threading.Event(), threading.Event()

    def hold():
        execute(db_alias, "BEGIN IMMEDIATE")
        locked.set()
        done.wait(10)
        execute(db_alias, "ROLLBACK")

    thread = elsewhere(hold)
    assert locked.wait(10)
    execute(db_alias, "PRAGMA busy_timeout = 0")
    error = error_of(lambda: Place.objects.using(db_alias).create(name="a"))

    execute(db_alias, "PRAGMA busy_timeout = 30000")
    done.set()
    thread.join(10)
    assert is_transient(error)


def too_long(db_alias):
    Place.objects.using(db_alias).create(name="x" * 50)


def twice(db_alias):
    Person.objects.using(db_alias).create(name="a", nick="one")
    Person.objects.using(db_alias).create(name="b", nick="one")


def too_big(db_alias):
    execute(db_alias, "INSERT INTO testapp_place (name, note, n) VALUES ('a', '', 99999999999)")


def no_such_table(db_alias):
    execute(db_alias, "SELECT * FROM nowhere")


def bad_syntax(db_alias):
    execute(db_alias, "SELEKT 1")


def too_slow(db_alias):
    if db_alias == "postgresql":
        with transaction.atomic(using=db_alias):
            execute(db_alias, "SET LOCAL statement_timeout = 20", "SELECT pg_sleep(5)")
    else:
        # SLEEP itself answers 1 when it is interrupted.
        count = "SELECT count(*) FROM seq_1_to_100000 a, seq_1_to_100000 b"
        execute(db_alias, f"SET STATEMENT max_statement_time = 0.02 FOR {count}")


@pytest.mark.parametrize("mistake", [too_long, twice, too_big, no_such_table, bad_syntax, too_slow])
def test_what_the_data_or_the_statement_is_to_blame_for_does_not_pass(server_alias, mistake):
    assert not is_transient(error_of(lambda: mistake(server_alias)))


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_division_by_zero_does_not_pass(server_alias):
    assert not is_transient(error_of(lambda: execute(server_alias, "SELECT 1 / 0")))


@pytest.mark.parametrize("mistake", [twice, no_such_table, bad_syntax])
@pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])
def test_what_sqlite_blames_on_the_data_does_not_pass(db_alias, mistake):
    assert not is_transient(error_of(lambda: mistake(db_alias)))


@pytest.mark.parametrize("error", [ValueError("deadlock"), IntegrityError("connection is closed"), KeyError(1213)])
def test_an_error_of_another_class_does_not_pass(error):
    assert not is_transient(error)


@pytest.mark.parametrize(
    "message",
    [
        "server closed the connection unexpectedly",
        "the connection is closed",
        "connection already closed",
        "consuming input failed: no connection to the server",
        "sending query failed: no connection to the server",
        "SSL SYSCALL error: EOF detected",
        "could not receive data from server: Connection timed out",
        "could not send data to server: Broken pipe",
        "connection failed: FATAL:  the database system is starting up",
        'connection to server at "127.0.0.1" failed: Connection refused',
        "connection timeout expired",
        "FATAL:  sorry, too many clients already",
        "[Errno -3] Temporary failure in name resolution",
        'could not translate host name "db" to address: Name or service not known',
        'connection to server at "10.0.0.1", port 5432 failed: timeout expired',
        'connection to server at "10.0.0.1", port 5432 failed: No route to host',
        "FATAL:  server login has been failing, cached error: connect failed (server_login_retry)",
    ],
)
def test_what_drivers_say_of_a_lost_connection_passes(message):
    assert is_transient(OperationalError(message))
