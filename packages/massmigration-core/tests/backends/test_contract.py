import functools
from collections import deque

import pytest

from massmigration.backends.base import BaseBackend
from massmigration.backends.local import pool
from massmigration.backends.sender import JobSender
from massmigration.testing import BackendContract
from massmigration.worker import perform
from testsupport.threads import PATIENCE

QUEUE = deque()


class QueueingBackend(BaseBackend):
    supports_delay = True

    def send(self, payload, delay):
        QUEUE.append(payload)


class LosesMessages(QueueingBackend):
    def send_all(self, payloads, finish):
        super().send_all(payloads[:1], finish)


class ForgetsContinuations(QueueingBackend):
    def send_continuation(self, payload, delay):
        pass


class ChangesPayloads(QueueingBackend):
    def send(self, payload, delay):
        super().send(payload.replace(" ", ""), delay)


class Queueing(BackendContract):
    @pytest.fixture(autouse=True)
    def _empty_queue(self):
        QUEUE.clear()

    def drain(self):
        while QUEUE:
            perform(QUEUE.popleft())


def fails(test, error):
    @functools.wraps(test)
    def wrapper(*args, **kwargs):
        with pytest.raises(error):
            test(*args, **kwargs)

    return wrapper


def lets_out(error, *names):
    """Return a class decorator: these tests of the contract must end in `error`, and the others must pass."""

    def decorate(cls):
        for name in names:
            setattr(cls, f"test_fails_at_{name}", fails(getattr(cls, f"test_{name}"), error))
            setattr(cls, f"test_{name}", None)
        return cls

    return decorate


fails_at = functools.partial(lets_out, AssertionError)


class TestImmediateBackend(BackendContract):
    backend_path = "massmigration.backends.immediate.ImmediateBackend"

    def drain(self):
        pass


class TestLocalBackend(BackendContract):
    backend_path = "massmigration.backends.local.LocalBackend"

    def drain(self):
        assert pool.wait_until_idle(PATIENCE)


class TestQueueingBackend(Queueing):
    backend_path = f"{__name__}.QueueingBackend"


@fails_at("several_shards_are_all_done")
class TestLosesMessages(Queueing):
    backend_path = f"{__name__}.LosesMessages"


@fails_at("nothing_is_sent_when_the_transaction_rolls_back", "nothing_is_sent_before_the_commit")
@lets_out(ConnectionError, "a_send_that_raises_is_an_event_and_is_healed")
class TestSendsBeforeCommit(Queueing):
    backend_path = f"{__name__}.QueueingBackend"

    @pytest.fixture(autouse=True)
    def _send_before_commit(self, _contract, monkeypatch):
        monkeypatch.setattr(
            JobSender, "enqueue", lambda sender, job, *, delay=None: sender.backend.send(job.dumps(), delay)
        )


@fails_at(
    "an_interrupted_job_goes_on",
    "a_job_over_its_time_goes_on",
    "a_job_comes_back_while_another_worker_has_its_shard",
)
class TestForgetsContinuations(Queueing):
    backend_path = f"{__name__}.ForgetsContinuations"


@lets_out(ConnectionError, "a_send_that_raises_is_an_event_and_is_healed")
class TestLetsErrorsOfSendingOut(Queueing):
    backend_path = f"{__name__}.QueueingBackend"

    @pytest.fixture(autouse=True)
    def _let_errors_out(self, _contract, monkeypatch):
        monkeypatch.setattr(JobSender, "_try", lambda sender, job, send: send())


@fails_at("payloads_are_small_json_and_arrive_as_they_were_sent")
class TestChangesPayloads(Queueing):
    backend_path = f"{__name__}.ChangesPayloads"


def test_a_test_that_passes_does_not_count_as_failing():
    with pytest.raises(pytest.fail.Exception):
        fails(lambda: None, AssertionError)()
