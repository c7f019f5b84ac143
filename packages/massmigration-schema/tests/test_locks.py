import datetime as dt
import re
import time

import pytest
from django.db import OperationalError, ProgrammingError, migrations, models, transaction

from massmigration_schema.exceptions import LockNotGranted
from massmigration_schema.locks import QUICK_TRIES, Blocker, LockLimits, patiently
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.shop import Change, Reader, executed

SECOND = dt.timedelta(seconds=1)
ALTER = "ALTER TABLE campaign ADD COLUMN extra integer"


def columns(shop):
    return list(shop.definition().columns)


def patient(shop, call, **given):
    lock = shop.dialect.lock(shop.db_alias)
    limits = LockLimits(patience=given.pop("patience", 30 * SECOND))
    return patiently(lock, "campaign", call, limits, **given)


def test_a_free_table_is_altered_at_the_first_try(shop):
    patient(shop, lambda: shop.execute(ALTER))

    assert "extra" in columns(shop)


def test_a_transaction_that_has_read_the_table_is_waited_for(shop):
    pauses = []

    with Reader(shop.db_alias) as reader:

        def sleep(seconds):
            pauses.append(seconds)
            if len(pauses) == 3:
                reader.end()

        patient(shop, lambda: shop.execute(ALTER), sleep=sleep)

    assert len(pauses) >= 3
    assert "extra" in columns(shop)


def test_the_lock_is_given_up_with_the_name_of_who_is_in_the_way(shop):
    pauses = []

    with Reader(shop.db_alias), pytest.raises(LockNotGranted) as raised:
        patient(shop, lambda: shop.execute(ALTER), patience=dt.timedelta(microseconds=1), sleep=pauses.append)

    assert raised.value.code == "online.lock"
    assert re.search(r"Table 'campaign': its lock was not granted in 1 tries within 1e-06 s\.", str(raised.value))
    assert "extra" not in columns(shop)


def blockers_with(reader, lock):
    """Return the sessions in the way, as soon as the reader is among them, and the reader's."""
    for _ in range(200):
        found = lock.blockers("campaign")
        for each in found:
            if each.session == reader.session:
                return found, each
        time.sleep(0.15)  # MariaDB looks again only if nobody has asked for a tenth of a second
    raise AssertionError("It is not in the way.")


def test_an_old_transaction_is_named(shop):
    lock = shop.dialect.lock(shop.db_alias)

    with Reader(shop.db_alias) as reader:
        _, found = blockers_with(reader, lock)  # without a plugin, MariaDB names the sessions of other databases, too

    assert found.age > dt.timedelta(milliseconds=300)
    assert found.user
    assert str(found).startswith(f"session {found.session} of {found.user}, open for ")


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_an_old_transaction_on_a_table_that_a_foreign_key_connects_is_named(shop):
    with Reader(shop.db_alias, "shop_note") as reader:
        _, found = blockers_with(reader, shop.dialect.lock(shop.db_alias))

    assert found.user


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_a_trigger_is_made_beside_an_old_transaction_on_a_child(shop):
    shop.fill(1)
    change = Change(shop, migrations.AddField("campaign", "likes", models.IntegerField(null=True)))
    change.tables.build()

    with Reader(shop.db_alias, "shop_note") as reader:
        _, found = blockers_with(reader, shop.dialect.lock(shop.db_alias))
        change.tables.create_triggers()

    assert found.user
    assert len(change.tables.trigger_texts()) == 3


@pytest.mark.parametrize("server_alias", ["postgresql", "mysql"], indirect=True)  # MariaDB tells with a plugin only
def test_an_old_transaction_on_another_table_is_not_in_the_way(shop):
    lock = shop.dialect.lock(shop.db_alias)

    with Reader(shop.db_alias, "django_migrations"), Reader(shop.db_alias) as reader:
        found, _ = blockers_with(reader, lock)

    assert len(found) == 1


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_without_the_schema_of_locks_every_old_transaction_is_named(shop):
    lock = shop.dialect.lock(shop.db_alias)

    def deny(execute, sql, params, many, context):
        if "performance_schema" in sql:
            raise OperationalError(1142, "SELECT command denied")
        return execute(sql, params, many, context)

    shop.execute("SET SESSION time_zone = '-07:00'")  # not the server's
    try:
        with Reader(shop.db_alias, "django_migrations") as reader, shop.connection.execute_wrapper(deny):
            _, found = blockers_with(reader, lock)
    finally:
        shop.connection.close()

    assert dt.timedelta(seconds=1) < found.age < dt.timedelta(hours=1)
    assert "of an unknown user" in str(found)


@pytest.mark.parametrize("server_alias", ["mariadb", "postgresql"], indirect=True)  # MySQL: the test above
def test_the_age_of_a_transaction_does_not_depend_on_the_time_zone(shop):
    lock = shop.dialect.lock(shop.db_alias)
    shop.execute(DATABASE_SERVERS[shop.db_alias].time_zone("America/Denver", "-07:00"))  # not the server's
    try:
        with Reader(shop.db_alias) as reader:
            _, found = blockers_with(reader, lock)
    finally:
        shop.connection.close()

    assert dt.timedelta(0) < found.age < dt.timedelta(hours=1)


def test_no_try_is_made_that_would_wait_for_an_old_transaction():
    calls = []

    class Lock:
        has_quick_tries = True

        def attempt(self, call, *, is_quick, max_stall):
            calls.append(is_quick)
            raise OperationalError(1205, "Lock wait timeout exceeded")

        def blockers(self, table):
            return [Blocker(session=7, user="ops", age=SECOND, statement="SELECT 1")]

    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == QUICK_TRIES + 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        patiently(Lock(), "t", lambda: None, LockLimits(), sleep=sleep)

    assert calls == [True] * QUICK_TRIES


def test_who_is_in_the_way_is_named_in_the_message():
    class Lock:
        has_quick_tries = True

        def attempt(self, call, *, is_quick, max_stall):
            raise OperationalError(1205, "Lock wait timeout exceeded")

        def blockers(self, table):
            return [Blocker(session=7, user="ops", age=SECOND, statement="SELECT 1")]

    with pytest.raises(
        LockNotGranted, match=r"In its way: session 7 of ops, open for 1\.0 s: SELECT 1\. Nothing was changed"
    ):
        patiently(Lock(), "t", lambda: None, LockLimits(patience=dt.timedelta(0)), sleep=lambda seconds: None)


def test_an_error_that_is_not_a_lock_s_is_raised_at_once(shop):
    tries = []

    def call():
        tries.append(1)
        shop.execute("ALTER TABLE shop_nothing ADD COLUMN extra integer")

    with pytest.raises(ProgrammingError):
        patient(shop, call)

    assert tries == [1]


def test_the_session_has_its_own_limits_again(shop):
    variable = (
        "SHOW lock_timeout"
        if shop.is_postgresql
        else "SELECT @@SESSION.lock_wait_timeout, @@SESSION.innodb_lock_wait_timeout"
    )
    before = shop.execute(variable)

    with transaction.atomic(shop.db_alias):
        patient(shop, lambda: shop.execute("SELECT 1"))
        after = shop.execute(variable)

    assert after == before


def test_a_try_waits_for_a_short_time_only(shop):
    variable = "SHOW lock_timeout" if shop.is_postgresql else "SELECT @@SESSION.lock_wait_timeout"
    lock = shop.dialect.lock(shop.db_alias)

    ((quick,),) = lock.attempt(lambda: shop.execute(variable), is_quick=True, max_stall=SECOND)
    ((slow,),) = lock.attempt(lambda: shop.execute(variable), is_quick=False, max_stall=SECOND)

    # MySQL has no zero.
    assert (quick, slow) == {"postgresql": ("50ms", "250ms"), "mariadb": (0, 1), "mysql": (1, 1)}[shop.db_alias]
    assert lock.has_quick_tries is (quick != slow)


def test_asking_who_is_in_the_way_does_not_read_the_table(shop):
    with executed(shop.db_alias) as statements:
        shop.dialect.lock(shop.db_alias).blockers("campaign")

    assert not [sql for sql in statements if "FROM campaign" in sql or "`campaign`" in sql]
