import json

import pytest
from rq.scheduler import RQScheduler
from rq.serializers import DefaultSerializer, JSONSerializer

from massmigration.backends.handler import get_backend
from massmigration.testing import BackendContract


@pytest.fixture(autouse=True)
def on_redis(request, redis_url, queue, work):
    test = request.instance
    test.queue, test.work = queue, work
    queue.serializer = test.serializer
    test.backend_options = {"url": redis_url, "queue": queue.name, "serializer": test.serializer}


class TestWithoutScheduler(BackendContract):
    backend_path = "massmigration_rq.RQBackend"
    serializer = DefaultSerializer

    def drain(self):
        self.work()

    def test_jobs_are_not_held_back_where_nobody_would_send_them_on(self):
        assert not get_backend().supports_delay


class TestWithScheduler(BackendContract):
    backend_path = "massmigration_rq.RQBackend"
    serializer = JSONSerializer

    @pytest.fixture(autouse=True)
    def _scheduler(self):
        self.scheduler = RQScheduler([self.queue], connection=self.queue.connection, serializer=self.serializer)
        self.scheduler.acquire_locks()

    def drain(self):
        self.work()
        while self.queue.scheduled_job_registry.get_job_ids():
            self.scheduler.enqueue_scheduled_jobs()
            self.work()

    def test_jobs_are_held_back(self):
        assert get_backend().supports_delay

    def test_what_travels_is_json(self):
        self.launch()

        (job,) = self.queue.jobs
        name, instance, (payload,), arguments = json.loads(job.data)
        assert (name, instance, arguments) == ("massmigration_rq.jobs.perform", None, {})
        assert payload in self.sent.payloads
