"""Tests of when a worker starts and stops recovery beside its jobs. Whether it runs is tested in test_workers.py."""

import threading

import pytest
from celery import signals
from kombu.asynchronous.timer import Timer

import massmigration_celery  # noqa: F401 - connects the signals
from massmigration.backends import recovery
from testsupport.threads import PATIENCE
from testsupport.worker_processes import wait_until


class Consumer:
    """The part of a Celery consumer that signals use."""

    def __init__(self):
        self.timer = Timer()

    def begin(self):
        """Send the signal of a ready worker, and return whether its receivers return soon."""
        ready = threading.Thread(target=signals.worker_ready.send, args=(self,), daemon=True)
        ready.start()
        ready.join(PATIENCE)
        return not ready.is_alive()


@pytest.fixture
def worker(recovery_rounds):
    yield Consumer()
    recovery_rounds.end()
    signals.worker_shutdown.send(None)


def test_healing_goes_on_when_the_consumers_timer_is_cleared(recovery_rounds, worker):
    worker.begin()

    worker.timer.clear()

    assert recovery_rounds.go_on()


def test_a_database_that_does_not_answer_does_not_hold_up_the_worker(recovery_rounds, worker):
    recovery_rounds.block()

    is_ready = worker.begin()
    recovery_rounds.first()

    assert is_ready
    assert not recovery_rounds.answer.is_set()


@pytest.mark.parametrize("signal", [signals.worker_shutting_down, signals.worker_shutdown], ids=["asked", "at the end"])
def test_the_worker_ends_it(recovery_rounds, worker, signal):
    worker.begin()
    thread = recovery_rounds.first()

    signal.send(None)

    wait_until(lambda: not thread.is_alive())


def test_a_worker_ends_while_a_database_does_not_answer(recovery_rounds, worker, monkeypatch):
    monkeypatch.setattr(recovery, "EXIT_WAIT", 0.05)
    recovery_rounds.block()
    worker.begin()
    thread = recovery_rounds.first()

    signals.worker_shutdown.send(None)

    assert thread.is_alive()
