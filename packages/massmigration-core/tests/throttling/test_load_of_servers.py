"""Throttles on real servers, which are brought into the state that each throttle is about."""

import contextlib
import datetime as dt
import time
from urllib.parse import urlsplit

import pytest
from django.db import connections

from massmigration.throttling import (
    AutovacuumRunning,
    CompletedBatch,
    DeadRows,
    LockWaiters,
    LongTransactions,
    MaxReplicaLag,
    MaxThreadsRunning,
)
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.processes import RunFolder
from testsupport.replication import PAIRS, replicated
from testsupport.services import Unavailable, missing_server
from testsupport.testapp.models import Item
from testsupport.threads import PATIENCE, in_thread

pytestmark = pytest.mark.slow

DATABASE = "massmigration_load"
NOTHING = dt.timedelta(0)
BATCH = {
    "key": "shop:0001_fill",
    "db_alias": "primary",
    "rows": 0,
    "duration": NOTHING,
    "workers": 1,
    "find_model": lambda: Item,
}
TENTH = dt.timedelta(seconds=0.1)
FREEZE_AGE = 100_000  # the least that PostgreSQL allows

LAG = {
    "postgresql": (["SELECT pg_wal_replay_pause()"], ["SELECT pg_wal_replay_resume()"]),
    "mariadb": (["LOCK TABLES testapp_item READ"], ["UNLOCK TABLES"]),
    "mysql": (["LOCK TABLES testapp_item READ"], ["UNLOCK TABLES"]),
}
"""Statements after which the replica applies nothing, and after which it continues."""

STOPPED = {
    "mariadb": ("STOP SLAVE SQL_THREAD", "START SLAVE SQL_THREAD"),
    "mysql": ("STOP REPLICA SQL_THREAD", "START REPLICA SQL_THREAD"),
}

ON_POSTGRESQL = pytest.mark.parametrize("servers", ["postgresql"], indirect=True)

SLEEP = {"postgresql": "SELECT pg_sleep(600)", "mariadb": "SELECT sleep(600)", "mysql": "SELECT sleep(600)"}


class Pair:
    """A primary and its replica, each with an alias and with the table of `Item`."""

    def __init__(self, engine, primary, replica, patch):
        self.engine, self.primary, self.replica = engine, primary, replica
        self._patch = patch
        self.add_alias("primary", primary.url)
        self.add_alias("replica", replica.url)

    def add_alias(self, alias, url, **changes):
        parts = urlsplit(url)
        login = {"HOST": parts.hostname, "PORT": parts.port, "USER": parts.username, "PASSWORD": ""}
        name = "postgres" if self.engine == "postgresql" else DATABASE
        given = {**connections.settings[self.engine], **login, "NAME": name, **changes}
        self._patch.setitem(connections.settings, alias, given)
        connections[alias] = connections.create_connection(alias)

    def execute(self, alias, *statements):
        with connections[alias].cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def write(self):
        self.execute("primary", "UPDATE testapp_item SET n = n + 1")

    def connect_thread(self):
        """Open a connection for this thread, which may have one to the server of another test."""
        connections["primary"] = connections.create_connection("primary")

    def execute_in_thread(self, *statements):
        def execute():
            self.connect_thread()
            self.execute("primary", *statements)

        return in_thread(execute)

    @contextlib.contextmanager
    def lagging(self):
        """Keep the replica from applying what it receives."""
        begin, end = LAG[self.engine]
        self.execute("replica", *begin)
        try:
            self.write()
            yield
        finally:
            self.execute("replica", *end)


@pytest.fixture(scope="module", params=list(PAIRS))
def servers(request):
    engine, run = request.param, RunFolder()
    try:
        with replicated(engine, run, DATABASE) as (primary, replica):
            yield engine, primary, replica
    except Unavailable as error:
        pytest.skip(missing_server(DATABASE_SERVERS[engine], error))
    finally:
        run.remove()


@pytest.fixture
def pair(servers, django_db_blocker):
    with pytest.MonkeyPatch.context() as patch, django_db_blocker.unblock():
        pair = Pair(*servers, patch)
        pair.execute(
            "primary",
            "CREATE TABLE IF NOT EXISTS testapp_item (id bigint PRIMARY KEY, n integer NOT NULL)",
            "DELETE FROM testapp_item",
            "INSERT INTO testapp_item VALUES (1, 0), (2, 0)",
        )
        until(lambda: answers_with("replica", "SELECT count(*) FROM testapp_item", 2))
        yield pair
        for alias in ("primary", "replica", "other"):
            with contextlib.suppress(Exception):
                connections[alias].close()


def answers_with(alias, query, expected):
    with contextlib.suppress(Exception), connections[alias].cursor() as cursor:  # the table is not there yet
        cursor.execute(query)
        return cursor.fetchone()[0] == expected
    return False


def until(happens):
    """Wait until a call returns something true, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happens()):
        assert time.monotonic() < deadline, "It did not happen."
        time.sleep(0.05)
    return found


def ask(throttle, **fields):
    return throttle(CompletedBatch(**{**BATCH, **fields}))


def reason(throttle, **fields):
    """Return the reason of the wait that the throttle asks for; empty if it asks for none."""
    wait = ask(throttle, **fields)
    return wait.reason if wait else ""


def test_a_replica_that_lags_is_a_reason_to_wait(pair):
    throttle = MaxReplicaLag(dt.timedelta(seconds=1), aliases=["replica"])
    until(lambda: ask(throttle) is None)

    with pair.lagging():
        # The lock of the table, which keeps MySQL's replica from applying, does not keep it from telling its lag.
        told = until(lambda: reason(throttle))

    assert "a replica is " in told
    assert told.endswith(" s behind; the limit is 1 s")
    until(lambda: ask(throttle, is_waiting=True) is None)


def test_a_replica_of_a_primary_without_writes_does_not_lag(pair):
    throttle = MaxReplicaLag(TENTH, aliases=["replica"])
    until(lambda: ask(throttle) is None)

    time.sleep(0.3)  # since the last transaction

    until(lambda: ask(throttle) is None)


def test_a_server_that_is_no_replica_cannot_be_measured(pair):
    told = reason(MaxReplicaLag(TENTH, aliases=["primary"]))

    assert told == "the server cannot be measured: database 'primary' is not a replica"


def test_a_primary_knows_the_lag_of_its_replicas(pair):
    throttle = MaxReplicaLag(TENTH)
    if pair.engine != "postgresql":
        assert "'primary' does not know how far its replicas are behind. Name them" in reason(throttle)
        return
    until(lambda: ask(throttle) is None)

    with pair.lagging():
        told = until(lambda: pair.write() or reason(throttle))

    assert told.endswith(" s behind; the limit is 0.1 s")
    until(lambda: ask(throttle) is None)


def test_a_replica_that_does_not_replicate_cannot_be_measured(pair):
    throttle = MaxReplicaLag(dt.timedelta(days=1), aliases=["replica"])
    until(lambda: ask(throttle) is None)

    if pair.engine == "postgresql":
        connections["primary"].close()
        pair.primary.stop()
        told = until(lambda: reason(throttle))
        pair.primary.start_again()
    else:
        stop, start = STOPPED[pair.engine]
        pair.execute("replica", stop)
        told = until(lambda: reason(throttle))
        pair.execute("replica", start)

    assert told.startswith("the server cannot be measured: the replica 'replica' is not connected to its primary")
    until(lambda: ask(throttle) is None)


def test_a_replica_that_does_not_answer_cannot_be_measured(pair):
    port = pair.replica.port
    pair.add_alias("other", pair.replica.url.replace(str(port), "1"))

    assert "cannot be measured" in reason(MaxReplicaLag(dt.timedelta(days=1), aliases=["replica", "other"]))


@ON_POSTGRESQL
def test_a_primary_without_replicas_cannot_be_measured(pair):
    until(lambda: answers_with("primary", "SELECT count(*) FROM pg_stat_replication", 1))

    connections["replica"].close()
    pair.replica.stop()
    told = until(lambda: reason(MaxReplicaLag(dt.timedelta(days=1))))
    pair.replica.start_again()

    assert told == "the server cannot be measured: no replica is connected to database 'primary'"


@ON_POSTGRESQL
def test_a_user_who_is_not_shown_replicas_is_told_what_to_grant(pair):
    until(lambda: answers_with("primary", "SELECT count(*) FROM pg_stat_replication", 1))
    pair.execute("primary", "DROP ROLE IF EXISTS app", "CREATE ROLE app LOGIN")
    pair.add_alias("other", pair.primary.url, USER="app")

    told = reason(MaxReplicaLag(dt.timedelta(days=1)), db_alias="other")

    assert told.endswith("database 'other' is not shown the state of replicas; grant it the role pg_monitor")


def test_running_statements_are_a_reason_to_wait(pair):
    before = MaxThreadsRunning(0).measure(CompletedBatch(**BATCH))  # of the server itself, and of its replicas
    throttle = MaxThreadsRunning(before + 3)
    until(lambda: ask(throttle) is None)
    with sleeping(pair, 5):
        told = until(lambda: reason(throttle))

    assert told.endswith(f"sessions of the server execute statements; the limit is {before + 3}")
    until(lambda: ask(throttle) is None)


@contextlib.contextmanager
def sleeping(pair, count):
    """Let so many other sessions execute a statement."""
    sessions = []

    def sleep():
        pair.connect_thread()
        with contextlib.suppress(Exception), connections["primary"].cursor() as cursor:
            cursor.execute(pair.primary.own_session)
            sessions.append(cursor.fetchone()[0])
            cursor.execute(SLEEP[pair.engine])

    futures = [in_thread(sleep) for _ in range(count)]
    until(lambda: len(sessions) == count)
    try:
        yield
    finally:
        for session in sessions:
            pair.execute("primary", pair.primary.end_session % session)
        for future in futures:
            future.result(PATIENCE)


@contextlib.contextmanager
def other_session(pair, *statements):
    """Execute statements in a transaction of another session, which stays open."""
    pair.add_alias("other", pair.primary.url)
    other = connections["other"]
    other.set_autocommit(False)
    try:
        pair.execute("other", *statements)
        yield
    finally:
        other.rollback()
        other.close()


@pytest.mark.parametrize("zone", ["", "+09:00"])
def test_a_long_transaction_is_a_reason_to_wait(pair, zone):
    throttle = LongTransactions(dt.timedelta(seconds=0.5))
    if zone:
        pair.execute("primary", pair.primary.time_zone("Asia/Tokyo", zone))
    until(lambda: ask(throttle) is None)

    with other_session(pair, "UPDATE testapp_item SET n = 7 WHERE id = 1"):
        assert reason(LongTransactions(dt.timedelta(hours=1))) == ""
        told = until(lambda: reason(throttle))

    assert told.startswith("a transaction has been open for ")
    until(lambda: ask(throttle) is None)


def test_sessions_that_wait_for_rows_are_a_reason_to_wait(pair):
    throttle = LockWaiters()
    assert ask(throttle) is None

    with other_session(pair, "UPDATE testapp_item SET n = 7 WHERE id = 1"):
        assert ask(throttle) is None  # it has the lock, and nobody waits
        blocked = pair.execute_in_thread("UPDATE testapp_item SET n = 8 WHERE id = 1")
        told = until(lambda: reason(throttle))
        assert not reason(throttle, find_model=lambda: None)

    blocked.result(PATIENCE)
    assert told == "1 session waits for locks of the table; the limit is 0"
    until(lambda: ask(throttle) is None)


@pytest.fixture
def dead_rows(pair):
    """Let a part of the table's rows be dead, and autovacuum take its time with them."""
    pair.execute(
        "primary",
        "ALTER TABLE testapp_item SET (autovacuum_enabled = off, autovacuum_vacuum_threshold = 0, "
        "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, "
        f"autovacuum_freeze_max_age = {FREEZE_AGE})",
        "INSERT INTO testapp_item SELECT i, 0 FROM generate_series(3, 20000) AS i",
        "DELETE FROM testapp_item WHERE id > 10000",
    )
    yield pair
    dropped = pair.execute_in_thread("DROP TABLE testapp_item")
    # An autovacuum against a wraparound is not canceled by this lock, and would take minutes.
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
    until(lambda: pair.execute("primary", end) or dropped.done())
    dropped.result()


@ON_POSTGRESQL
def test_dead_rows_are_a_reason_to_wait(dead_rows):
    told = until(lambda: reason(DeadRows(0.2)))

    assert told.endswith("% of the table's rows are dead; the limit is 0.2")
    dead_rows.execute("primary", "VACUUM testapp_item")
    until(lambda: ask(DeadRows(0.2)) is None)


@ON_POSTGRESQL
def test_an_autovacuum_of_the_table_is_a_reason_to_wait(dead_rows):
    throttle = AutovacuumRunning()
    assert ask(throttle) is None

    dead_rows.execute("primary", "ALTER TABLE testapp_item SET (autovacuum_enabled = on)")
    told = until(lambda: reason(throttle))

    assert told == "autovacuum works on the table"
    assert ask(throttle, find_model=lambda: None) is None
    assert ask(AutovacuumRunning(only_wraparound=True)) is None
    # PostgreSQL cancels an autovacuum whose lock conflicts.
    dead_rows.execute("primary", "ALTER TABLE testapp_item SET (autovacuum_enabled = off)")
    until(lambda: ask(throttle) is None)


@ON_POSTGRESQL
def test_an_autovacuum_against_a_wraparound_is_told_apart(dead_rows):
    # Each block with an exception handler takes the number of a transaction.
    spend = "BEGIN INSERT INTO spent VALUES (1); EXCEPTION WHEN OTHERS THEN NULL; END"
    dead_rows.execute(
        "primary",
        "CREATE UNLOGGED TABLE IF NOT EXISTS spent (n integer)",
        f"DO $$ BEGIN FOR i IN 1..{FREEZE_AGE + 10} LOOP {spend}; END LOOP; END $$",
        "DROP TABLE spent",
    )

    told = until(lambda: reason(AutovacuumRunning(only_wraparound=True)))

    assert told == "autovacuum works on the table to prevent a wraparound"
