"""How a worker heals beside its jobs. That it does is in test_workers.py."""

import os
import threading
import time
from types import SimpleNamespace

import pytest
from celery import signals
from django.db import connections
from kombu.asynchronous.timer import Timer

from massmigration_celery import healing
from testsupport.workers import wait_until


@pytest.fixture
def recover(monkeypatch):
    """What a test makes of a round, in a list; the rounds that there were, in another."""
    did, rounds = [], []

    def recover(at_most_once_a_lease):
        assert at_most_once_a_lease
        rounds.append(threading.current_thread())
        for each in did:
            each()

    monkeypatch.setattr(healing, "PAUSE", 0.01)
    monkeypatch.setattr("massmigration.worker.recover", recover)
    return SimpleNamespace(did=did, rounds=rounds)


class Consumer:
    """As far as signals know one."""

    def __init__(self):
        self.timer = Timer()

    def begin(self):
        """Whether the worker has been free for other things since."""
        ready = threading.Thread(target=signals.worker_ready.send, args=(self,), daemon=True)
        ready.start()
        ready.join(5)
        return not ready.is_alive()


@pytest.fixture
def worker(recover):
    yield Consumer()
    recover.did.clear()
    signals.worker_shutdown.send(None)


@pytest.fixture
def blocked(recover):
    """An event that rounds wait for."""
    answer = threading.Event()
    recover.did.append(lambda: answer.wait(30))
    yield answer
    answer.set()


def rounds_go_on(recover):
    count = len(recover.rounds)
    return wait_until(lambda: len(recover.rounds) > count + 2)


def test_healing_goes_on_when_the_consumers_timer_is_cleared(recover, worker):
    worker.begin()

    worker.timer.clear()

    assert rounds_go_on(recover)


def test_a_database_that_does_not_answer_does_not_hold_up_the_worker(recover, worker, blocked):
    is_ready = worker.begin()

    wait_until(lambda: recover.rounds)

    assert is_ready
    assert not blocked.is_set()


def test_a_round_that_raises_is_logged_and_others_follow(recover, worker, caplog):
    recover.did.append(lambda: 1 / 0)

    worker.begin()

    assert rounds_go_on(recover)
    assert "What is stuck could not be sent again" in caplog.text


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_connections_are_the_threads_own_and_closed_after_each_round(db_alias, recover, worker, monkeypatch):
    used = []

    def use():
        connections[db_alias].ensure_connection()
        used.append(connections[db_alias])

    recover.did.append(use)
    connections[db_alias].ensure_connection()

    with monkeypatch.context() as patch:
        patch.setitem(connections[db_alias].settings_dict["OPTIONS"], "pool", True)
        worker.begin()
        rounds_go_on(recover)
        signals.worker_shutdown.send(None)

    assert connections[db_alias] not in used
    assert connections[db_alias].connection is not None
    assert {each.connection for each in used} == {None}


@pytest.mark.parametrize("signal", [signals.worker_shutting_down, signals.worker_shutdown], ids=["asked", "at the end"])
def test_the_worker_ends_it(recover, worker, signal):
    worker.begin()
    (thread, *_) = wait_until(lambda: recover.rounds)

    signal.send(None)

    wait_until(lambda: not thread.is_alive())


def test_a_worker_ends_while_a_database_does_not_answer(recover, worker, blocked, monkeypatch):
    monkeypatch.setattr(healing, "EXIT_WAIT", 0.05)
    worker.begin()
    (thread,) = wait_until(lambda: recover.rounds)

    signals.worker_shutdown.send(None)

    assert thread.is_alive()


def fork():
    """What a child process finds: whether a round goes on, and whether it has a thread for it."""
    pid = os.fork()
    if not pid:
        os._exit(2 * healing.healer._round.locked() + bool(healing.healer._thread))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


pools_fork = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pools_fork
def test_a_fork_waits_for_the_round_and_the_child_is_free_of_it(recover, worker, blocked, monkeypatch):
    monkeypatch.setattr(healing, "FORK_WAIT", 20)
    recover.did.append(lambda: ended.append(time.monotonic()))
    ended = []
    worker.begin()
    wait_until(lambda: recover.rounds)
    threading.Timer(0.2, blocked.set).start()

    found = fork()

    assert ended
    assert found == 0
    assert rounds_go_on(recover)


@pools_fork
def test_a_fork_does_not_wait_for_a_database_that_does_not_answer(recover, worker, blocked, monkeypatch):
    monkeypatch.setattr(healing, "FORK_WAIT", 0.05)
    worker.begin()
    wait_until(lambda: recover.rounds)

    found = fork()
    blocked.set()

    assert found == 0
    assert rounds_go_on(recover)
