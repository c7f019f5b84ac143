import datetime as dt
import threading

import pytest

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.backends.local import pool
from massmigration.models import Event
from massmigration.states import Status
from massmigration.worker import perform
from testsupport.oracle import calls
from testsupport.race import DUMMY, KEY, ONCE_EACH, new_race
from testsupport.threads import PATIENCE, Gate

LOCAL = "massmigration.backends.local.LocalBackend"


@pytest.fixture
def race(db_alias, settings):
    for race in new_race(db_alias, settings):
        settings.MASSMIGRATION_BACKEND = LOCAL
        yield race
        pool.resume()


def test_its_jobs_run_in_threads_of_this_process(race):
    threads = []
    race.migration.before = lambda: threads.append(threading.current_thread())
    race.launch()

    assert pool.wait_until_idle(PATIENCE)
    assert threads[0] is not threading.main_thread()
    assert race.ending == ONCE_EACH


def test_its_option_sets_the_number_of_threads(settings):
    settings.MASSMIGRATION_BACKEND = LOCAL
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"workers": 5}

    assert get_backend().workers == 5

    settings.MASSMIGRATION_BACKEND_OPTIONS = {}

    assert get_backend().workers == 2


def test_a_stop_ends_the_job_after_its_batch_and_healing_goes_on(race):
    gate = Gate()
    race.migration.before = gate.wait
    race.launch()
    gate.await_arrivals()
    threading.Timer(0.1, gate.open).start()

    assert pool.stop(PATIENCE)
    assert len(calls(race.db_alias)) == 3
    assert race.record.status == Status.RUNNING

    pool.stop()
    pool.resume()
    race.expire()
    api.recover(race.db_alias)

    assert pool.wait_until_idle(PATIENCE)
    assert race.ending == ONCE_EACH


def test_a_job_that_ends_in_an_unforeseen_error_is_run_again(race, settings, monkeypatch):
    settings.MASSMIGRATION_LEASE = dt.timedelta(milliseconds=40)
    backend_class = type(get_backend())
    monkeypatch.setattr(backend_class, "hard_time_limit", fail_once(backend_class.hard_time_limit))
    race.launch()

    assert pool.wait_until_idle(PATIENCE)
    assert race.ending == ONCE_EACH


def fail_once(call):
    errors = [MemoryError("on purpose")]

    def wrapper(*args):
        if errors:
            raise errors.pop()
        return call(*args)

    return wrapper


def test_the_immediate_backend_runs_a_job_to_its_end_in_this_thread(race, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.immediate.ImmediateBackend"
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
    threads = []
    race.migration.before = lambda: threads.append(threading.current_thread())

    race.launch()

    assert threads == [threading.current_thread()]
    assert race.ending == ONCE_EACH


def test_the_immediate_backend_tells_of_what_it_could_not_perform(race, settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.immediate.ImmediateBackend"
    backend_class = type(get_backend())
    monkeypatch.setattr(backend_class, "hard_time_limit", fail_once(backend_class.hard_time_limit))

    race.launch()

    assert Event.objects.using(race.db_alias).filter(key=KEY, verb="not sent").count() == 1

    race.expire()
    api.recover(race.db_alias)

    assert race.ending == ONCE_EACH


def test_the_dummy_backend_runs_nothing(race, settings):
    settings.MASSMIGRATION_BACKEND = DUMMY
    race.launch()

    assert calls(race.db_alias) == []
    assert [delay for _, delay in race.sent] == [None]

    perform(race.take())

    assert len(race.sent) == 1
