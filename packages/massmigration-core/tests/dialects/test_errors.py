import threading
import time

import pytest
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connections, transaction

from massmigration.dialects.errors import is_cancelled, is_conflict, is_lost_connection, is_timeout, is_transient
from testsupport.concurrent_writers import elsewhere, end_session
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.db_sessions import session_id
from testsupport.testapp.models import Person, Place
from testsupport.threads import PATIENCE

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
def locked_row(server_alias, places):
    """Another connection that locks a row, waits for a signal to continue, and then locks the other row."""
    holds, may_go_on = threading.Event(), threading.Event()

    def hold():
        try:
            with transaction.atomic(using=server_alias):
                touch(server_alias, "a")
                holds.set()
                may_go_on.wait(PATIENCE)
                touch(server_alias, "b")
        except DatabaseError:
            assert may_go_on.is_set()

    thread = elsewhere(hold)
    assert holds.wait(PATIENCE)
    yield may_go_on
    may_go_on.set()
    thread.join(PATIENCE)


def test_a_deadlock_passes(server_alias, locked_row):
    def embrace():
        with transaction.atomic(using=server_alias):
            execute(server_alias, *DATABASE_SERVERS[server_alias].victim)
            touch(server_alias, "b")
            locked_row.set()
            time.sleep(0.2)
            touch(server_alias, "a")

    # MySQL and MariaDB roll back the transaction with fewer changes; the other has as many, and is older.
    error = error_of(embrace)
    assert (is_transient(error), is_conflict(error), is_lost_connection(error)) == (True, True, False)


def test_a_lock_that_is_not_given_passes(server_alias, locked_row):
    def wait():
        execute(server_alias, DATABASE_SERVERS[server_alias].impatient)
        touch(server_alias, "a")

    error = error_of(wait)

    connections[server_alias].close()
    assert (is_transient(error), is_conflict(error)) == (True, False)


def test_a_row_that_somebody_has_locked_passes(server_alias, locked_row):
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
            elsewhere(lambda: touch(server_alias, "a")).join(PATIENCE)
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
    def sleep():
        execute(server_alias, DATABASE_SERVERS[server_alias].limit_idle(1))
        with transaction.atomic(using=server_alias):
            touch(server_alias, "a")
            time.sleep(1.5)
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
        done.wait(PATIENCE)
        execute(db_alias, "ROLLBACK")

    thread = elsewhere(hold)
    assert locked.wait(PATIENCE)
    execute(db_alias, "PRAGMA busy_timeout = 0")
    error = error_of(lambda: Place.objects.using(db_alias).create(name="a"))

    execute(db_alias, "PRAGMA busy_timeout = 30000")
    done.set()
    thread.join(PATIENCE)
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
    with transaction.atomic(using=db_alias):
        execute(db_alias, *DATABASE_SERVERS[db_alias].timed_out)


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


@pytest.mark.parametrize(
    "message",
    ["couldn't get a connection after 30.00 sec", "the pool 'pool-1' is already closed"],
    ids=["full", "over"],
)
def test_a_pool_without_a_connection_passes(message):
    assert is_transient(OperationalError(message))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OperationalError(1290, "The MariaDB server is running with the --read-only option"), True),
        (OperationalError(1290, "The MariaDB server is running with the --secure-file-priv option"), False),
        (OperationalError(1290, "The MySQL server is running with the --super-read-only option"), True),
        (OperationalError(1836, "Running in read-only mode"), True),
        (OperationalError(1792, "Cannot execute statement in a READ ONLY transaction."), False),
        (OperationalError(1317, "Query execution was interrupted"), True),
        (OperationalError(3024, "Query execution was interrupted, maximum statement execution time exceeded"), False),
        (OperationalError(3101, "Plugin instructed the server to rollback the current transaction."), True),
        (OperationalError(3572, "Statement aborted because lock(s) could not be acquired immediately"), True),
        (OperationalError(4031, "The client was disconnected by the server because of inactivity."), True),
        (DatabaseError(3572, "Statement aborted because lock(s) could not be acquired immediately"), True),
        (OperationalError(-1, "MySQL Connection not available", None), True),
        (OperationalError(-1, "Packet sequence number wrong", None), False),
        (OperationalError(1305, "SAVEPOINT s1 does not exist"), True),
        (OperationalError(1305, "PROCEDURE test.p does not exist"), False),
    ],
)
def test_what_mysqls_numbers_say_depends_on_their_text(error, passes):
    assert is_transient(error) == passes


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_a_read_only_server_passes(server_alias):
    def write():
        with transaction.atomic(using=server_alias):
            execute(server_alias, "SET TRANSACTION READ ONLY")
            Place.objects.using(server_alias).create(name="a")

    assert is_transient(error_of(write))


def test_a_cancelled_query_passes_and_is_no_timeout(server_alias):
    session, server = session_id(server_alias), DATABASE_SERVERS[server_alias]
    began = threading.Event()

    def go_on():
        began.set()
        execute(server_alias, server.long_statement)

    def end():
        began.wait(PATIENCE)
        while not over.wait(0.05):  # the statement may not have begun
            execute(server_alias, server.cancel_statement % session)

    over = threading.Event()
    thread = elsewhere(end)
    error = error_of(go_on)
    over.set()
    thread.join(PATIENCE)
    assert (is_transient(error), is_cancelled(error), is_timeout(error)) == (True, True, False)


def test_a_timeout_is_told_apart(server_alias):
    error = error_of(lambda: too_slow(server_alias))

    assert (is_transient(error), is_cancelled(error) and is_transient(error), is_timeout(error)) == (False, False, True)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1213, (True, False)), (3101, (True, False)), (1205, (False, False)), (3572, (False, False))]
    + [(number, (False, True)) for number in (-1, 2006, 2013, 4031)],
)
def test_conflicts_lost_connections_and_locks_are_told_apart_by_mysqls_numbers(number, expected):
    error = OperationalError(number, "MySQL Connection not available")

    assert (is_conflict(error), is_lost_connection(error)) == expected


def test_a_killed_connection_is_told_apart(server_alias, places):
    def go_on():
        with transaction.atomic(using=server_alias):
            end_session(server_alias, session_id(server_alias))
            touch(server_alias, "a")

    assert is_lost_connection(error_of(go_on))


def test_a_lock_that_is_not_given_is_no_lost_connection(server_alias, locked_row):
    def ask():
        with transaction.atomic(using=server_alias):
            Place.objects.using(server_alias).select_for_update(nowait=True).get(name="a")

    assert not is_lost_connection(error_of(ask))
