import contextlib
import logging
import time

import pytest

import massmigration_celery  # noqa: F401 - a worker knows its tasks when it starts
from massmigration.testing import BackendContract
from testsupport.celery_client import client_of, worker_of
from testsupport.worker_processes import wait_until


@pytest.fixture(scope="module", params=[{}, {"result_backend": "redis"}], ids=["tasks", "chord"])
def app(request, redis_url, django_db_setup, django_db_blocker):
    conf = dict.fromkeys(request.param, redis_url)
    # A key of its own, because the worker of the other parameter may have left messages behind.
    conf["broker_transport_options"] = {"unacked_key": f"unacked-{len(request.param)}"}
    with client_of(redis_url, **conf) as app, contextlib.ExitStack() as stack:
        with django_db_blocker.unblock():  # a worker runs Django's checks at its start, which may query databases
            stack.enter_context(worker_of(app))
        yield app


class TestCeleryBackend(BackendContract):
    backend_path = "massmigration_celery.CeleryBackend"

    @pytest.fixture(autouse=True)
    def _worker(self, app):
        self.app = app

    def drain(self):
        # For a moment, a message that a worker takes is in no list.
        wait_until(lambda: all(time.sleep(0.03) is None and self.is_idle() for _ in range(4)))

    def test_a_worker_in_this_process_leaves_logging_alone(self, caplog):
        logging.getLogger("massmigration").warning("Seen.")

        assert caplog.messages == ["Seen."]
        assert logging.getLogger().level == logging.WARNING

    def is_idle(self):
        """Return whether no job waits, and workers have acknowledged all jobs that they received."""
        conf = self.app.conf
        unacked, queue = conf.broker_transport_options["unacked_key"], conf.task_default_queue
        with self.app.connection_for_read() as connection, connection.default_channel.client.pipeline() as pipe:
            return pipe.hlen(unacked).llen(queue).execute() == [0, 0]
