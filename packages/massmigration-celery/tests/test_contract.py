import time

import pytest
from celery.contrib.testing.worker import start_worker

import massmigration_celery  # noqa: F401 - a worker knows its tasks when it starts
from massmigration.testing import BackendContract
from testsupport.celery_client import client_of
from testsupport.workers import wait_until


@pytest.fixture(scope="module", params=[{}, {"result_backend": "redis"}], ids=["tasks", "chord"])
def app(request, redis_url):
    conf = dict.fromkeys(request.param, redis_url)
    with client_of(redis_url, **conf) as app, start_worker(app, pool="solo", perform_ping_check=False):
        yield app


class TestCeleryBackend(BackendContract):
    backend_path = "massmigration_celery.CeleryBackend"

    @pytest.fixture(autouse=True)
    def _worker(self, app):
        self.app = app

    def drain(self):
        # A message that a worker is just taking is nowhere for a moment.
        wait_until(lambda: self.is_idle() and time.sleep(0.02) is None and self.is_idle())

    def is_idle(self):
        """Whether nothing waits, and workers have acknowledged whatever they were given."""
        with self.app.connection_for_read() as connection, connection.default_channel.client.pipeline() as pipe:
            return pipe.hlen("unacked").llen(self.app.conf.task_default_queue).execute() == [0, 0]
