import contextlib
import datetime as dt
import threading

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from massmigration import record_cache
from massmigration.exceptions import RecordsUnreadable
from massmigration.models import MigrationRecord
from massmigration.states import Status

KEY = "testapp:0001_once"
NOT_APPLIED = [status for status in Status if status != Status.APPLIED]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(record_cache, "monotonic", clock)
    return clock


def make_record(db_alias, status=Status.APPLIED):
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=status)


def queries(db_alias):
    return CaptureQueriesContext(connections[db_alias])


def test_an_applied_migration_is_asked_for_once(db_alias):
    make_record(db_alias)

    with queries(db_alias) as captured:
        answers = [record_cache.is_applied(KEY, db_alias) for _ in range(3)]

    assert answers == [True, True, True]
    assert len(captured) == 1


@pytest.mark.parametrize("status", NOT_APPLIED)
def test_no_other_status_is_remembered(db_alias, status):
    make_record(db_alias, status)

    before = [record_cache.is_applied(KEY, db_alias) for _ in range(2)]
    MigrationRecord.objects.using(db_alias).update(status=Status.APPLIED)

    assert (before, record_cache.is_applied(KEY, db_alias)) == ([False, False], True)


def test_no_record_is_not_remembered(db_alias):
    before = record_cache.is_applied(KEY, db_alias)
    make_record(db_alias)

    assert (before, record_cache.is_applied(KEY, db_alias)) == (False, True)


def test_each_database_is_remembered_by_itself(server_alias):
    make_record("default")

    assert record_cache.is_applied(KEY, "default")
    assert not record_cache.is_applied(KEY, server_alias)


@pytest.mark.parametrize("timeout", [30, dt.timedelta(seconds=30)], ids=["number", "timedelta"])
def test_a_forgotten_record_is_noticed_after_the_timeout(db_alias, clock, settings, timeout):
    settings.MASSMIGRATION_RECORD_CACHE_TIMEOUT = timeout
    make_record(db_alias)
    record_cache.is_applied(KEY, db_alias)
    MigrationRecord.objects.using(db_alias).all().delete()

    clock.now += 29.9
    shortly_before = record_cache.is_applied(KEY, db_alias)
    clock.now += 0.1

    assert (shortly_before, record_cache.is_applied(KEY, db_alias)) == (True, False)


def test_without_a_timeout_it_is_remembered_as_long_as_the_process_lives(db_alias, clock, settings):
    settings.MASSMIGRATION_RECORD_CACHE_TIMEOUT = None
    make_record(db_alias)
    record_cache.is_applied(KEY, db_alias)

    clock.now += 1e9

    assert record_cache.is_known(KEY, db_alias)


def test_the_timeout_is_a_minute_unless_it_is_set():
    assert record_cache.cache_timeout() == record_cache.DEFAULT_CACHE_TIMEOUT == 60


def test_the_timeout_counts_from_before_the_query(db_alias, clock, monkeypatch):
    make_record(db_alias)

    def slow(execute, *arguments):
        clock.now += 59
        return execute(*arguments)

    with connections[db_alias].execute_wrapper(slow):
        record_cache.is_applied(KEY, db_alias)

    clock.now += 1
    assert not record_cache.is_known(KEY, db_alias)


def test_a_timeout_of_zero_remembers_nothing(db_alias, settings):
    settings.MASSMIGRATION_RECORD_CACHE_TIMEOUT = 0
    make_record(db_alias)
    record_cache.is_applied(KEY, db_alias)

    assert not record_cache.is_known(KEY, db_alias)


def test_forget_asks_again(db_alias):
    make_record(db_alias)
    record_cache.is_applied(KEY, db_alias)

    record_cache.forget(KEY, db_alias)
    record_cache.forget("testapp:never_seen", db_alias)

    assert not record_cache.is_known(KEY, db_alias)


@pytest.mark.parametrize("command", ["migrate", "flush"])
def test_a_command_that_changes_the_tables_empties_it(db_alias, command):
    make_record(db_alias)
    record_cache.is_applied(KEY, db_alias)

    call_command(command, database=db_alias, interactive=False, verbosity=0)

    assert not record_cache.is_known(KEY, db_alias)


def test_what_a_test_sees_in_its_transaction_is_not_there_for_the_next(db_alias):
    with transaction.atomic(using=db_alias):
        make_record(db_alias)
        is_applied = record_cache.is_applied(KEY, db_alias)
        transaction.set_rollback(True, using=db_alias)

    assert (is_applied, record_cache.is_applied(KEY, db_alias)) == (True, False)


def test_outside_of_tests_it_is_remembered_in_transactions_too(db_alias, monkeypatch):
    monkeypatch.setattr(record_cache, "is_running_tests", lambda: False)
    make_record(db_alias)

    with transaction.atomic(using=db_alias):
        record_cache.is_applied(KEY, db_alias)

    assert record_cache.is_known(KEY, db_alias)


def test_a_missing_table_says_to_migrate(db_alias, monkeypatch):
    monkeypatch.setattr(MigrationRecord._meta, "db_table", "massmigration_absent")

    with pytest.raises(RecordsUnreadable, match=f"Run: manage.py migrate --database {db_alias}$") as caught:
        record_cache.is_applied(KEY, db_alias)

    assert "massmigration_absent" in str(caught.value)


def test_threads_that_ask_at_once_agree_and_then_ask_no_more(server_alias):
    make_record(server_alias)
    barrier = threading.Barrier(8)
    answers = []
    counts = []

    def ask():
        barrier.wait()
        with contextlib.closing(connections[server_alias]), queries(server_alias) as captured:
            answers.extend(record_cache.is_applied(KEY, server_alias) for _ in range(100))
            counts.append(len(captured))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == [True] * 800
    assert sum(counts) >= 1
    assert max(counts) <= 1


def test_the_names_of_django_mass_migration_are_there(db_alias):
    make_record(db_alias)

    assert record_cache.get_record(KEY, db_alias).status == Status.APPLIED
    assert record_cache.get_record("testapp:other", db_alias) is None
    assert record_cache.get_cache_key(KEY, db_alias) == f"massmigration_record:{KEY}:{db_alias}"
