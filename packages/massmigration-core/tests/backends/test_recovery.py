"""Tests of the thread that runs recovery beside a worker's jobs. The workers of Celery use it."""

import os
import threading
import time

import pytest
from django.db import connections

from massmigration import worker
from massmigration.backends import recovery


@pytest.fixture
def thread(recovery_rounds):
    thread = recovery.RecoveryThread(worker.recover_if_due)
    yield thread
    recovery_rounds.end()
    thread.join()


def test_a_second_start_changes_nothing(thread, recovery_rounds):
    thread.start()
    thread.start()

    assert recovery_rounds.go_on()
    assert len(set(recovery_rounds.threads)) == 1


def test_a_round_that_raises_is_logged_and_others_follow(thread, recovery_rounds, caplog):
    recovery_rounds.did.append(lambda: 1 / 0)

    thread.start()

    assert recovery_rounds.go_on()
    assert "Recovery failed. It will run again later." in caplog.text


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_connections_are_the_threads_own_and_closed_after_each_round(db_alias, thread, recovery_rounds, monkeypatch):
    used = []

    def use():
        connections[db_alias].ensure_connection()
        used.append(connections[db_alias])

    recovery_rounds.did.append(use)
    connections[db_alias].ensure_connection()

    with monkeypatch.context() as patch:
        patch.setitem(connections[db_alias].settings_dict["OPTIONS"], "pool", True)
        thread.start()
        recovery_rounds.go_on()
        thread.join()

    assert connections[db_alias] not in used
    assert connections[db_alias].connection is not None
    assert {each.connection for each in used} == {None}


def test_it_ends_after_the_current_round(thread, recovery_rounds):
    recovery_rounds.block()
    thread.start()
    found = recovery_rounds.first()
    threading.Timer(0.2, recovery_rounds.answer.set).start()

    thread.stop()
    found.join()

    assert recovery_rounds.threads == [found]


def test_the_end_does_not_wait_for_a_database_that_does_not_answer(thread, recovery_rounds, monkeypatch):
    monkeypatch.setattr(recovery, "EXIT_WAIT", 0.05)
    recovery_rounds.block()
    thread.start()
    found = recovery_rounds.first()

    thread.join()

    assert found.is_alive()


def fork(thread):
    """Return whether a round of recovery runs in a child process, and whether the process has a thread for it."""
    pid = os.fork()
    if not pid:
        os._exit(2 * thread._round.locked() + bool(thread._thread))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


pools_fork = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pools_fork
def test_a_fork_waits_for_the_round_and_the_child_is_free_of_it(thread, recovery_rounds, monkeypatch):
    monkeypatch.setattr(recovery, "FORK_WAIT", 20)
    recovery_rounds.block()
    recovery_rounds.did.append(lambda: ended.append(time.monotonic()))
    ended = []
    thread.start()
    recovery_rounds.first()
    threading.Timer(0.2, recovery_rounds.answer.set).start()

    found = fork(thread)

    assert ended
    assert found == 0
    assert recovery_rounds.go_on()


@pools_fork
def test_a_fork_does_not_wait_for_a_database_that_does_not_answer(thread, recovery_rounds, monkeypatch):
    monkeypatch.setattr(recovery, "FORK_WAIT", 0.05)
    recovery_rounds.block()
    thread.start()
    recovery_rounds.first()

    found = fork(thread)
    recovery_rounds.answer.set()

    assert found == 0
    assert recovery_rounds.go_on()
