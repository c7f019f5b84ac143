import datetime as dt
import gc
import json
import logging
import threading
import uuid
import weakref

import pytest
from django.core.checks import run_checks
from rq import Queue, Retry
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.scheduler import RQScheduler

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.checks import TAG
from massmigration.exceptions import BadBackend
from massmigration.jobs import Job, JobKind
from massmigration.migrations import SimpleMigration
from massmigration.models import Event, MigrationRecord
from massmigration_rq import RQBackend, jobs
from massmigration_rq.backend import FEW, WEEK
from testsupport.inline_migrations import register
from testsupport.processes import free_port

KEY = "testapp:9000_adhoc"
JSON = "rq.serializers.JSONSerializer"
PERFORM = "massmigration_rq.jobs.perform"


class Once(SimpleMigration):
    def operation(self, db_alias):
        pass


@pytest.fixture(autouse=True)
def backend(settings, queue, redis_url):
    settings.MASSMIGRATION_BACKEND = "massmigration_rq.RQBackend"
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"url": redis_url, "queue": queue.name}
    return get_backend()


def payload(kind=JobKind.SHARD, shard=0, key=KEY):
    return Job(kind=kind, key=key, db_alias="default", attempt_id=str(uuid.UUID(int=1)), shard=shard).dumps()


def status(db_alias="default"):
    return MigrationRecord.objects.using(db_alias).get().status


def test_a_job_has_a_time_limit_and_retries_and_says_what_it_is(backend, queue):
    backend.send(payload(), None)

    (job,) = queue.jobs
    assert (job.func_name, list(job.args)) == (PERFORM, [payload()])
    assert (job.timeout, job.retries_left, job.result_ttl, job.failure_ttl) == (3600, 3, 0, WEEK)
    assert job.description == f"massmigration {KEY}, shard 0 of stage 0"
    assert job.retry_intervals is None or job.retry_intervals == [0]
    assert backend.hard_time_limit() == dt.timedelta(hours=1)


def test_options_set_the_time_limit_and_the_retries(queue, redis_url):
    backend = RQBackend(url=redis_url, queue=queue.name, job_timeout=20, retries=0)

    backend.send(payload(), None)

    (job,) = queue.jobs
    assert (job.timeout, job.retries_left) == (20, None)
    assert backend.job_duration() == dt.timedelta(seconds=10)


@pytest.mark.parametrize(
    "options",
    [{"quue": "x"}, {"job_timeout": "1h"}, {"job_timeout": 0}, {"retries": -1}],
    ids=["unknown", "text", "zero", "negative"],
)
def test_options_that_are_wrong_are_refused(redis_url, options):
    with pytest.raises(BadBackend, match=r"RQBackend got the options .* Its options are queue, url, serializer"):
        RQBackend(url=redis_url, **options)


@pytest.mark.parametrize("options", [{"url": "http://x"}, {"serializer": "no.such"}], ids=["address", "serializer"])
def test_a_queue_that_cannot_be_used_is_refused(redis_url, options):
    with pytest.raises(BadBackend, match="RQ's queue 'default' cannot be used"):
        RQBackend(**{"url": redis_url, **options})


@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_a_job_of_an_unknown_migration_goes_back_to_rq(db_alias, queue, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.local.LocalBackend"
    queue.connection.set(RQScheduler.get_locking_key(queue.name), "1")
    key = "testapp:0998_undeployed"
    record = MigrationRecord.objects.using(db_alias).create(
        key=key, status="queued", is_managed=True, attempt_id=uuid.UUID(int=1)
    )

    jobs.perform(payload(key=record.key))

    assert queue.scheduled_job_registry.count == 1


def test_django_rqs_queues_are_used_with_their_serializer(settings, queue, redis_url):
    settings.RQ_QUEUES = {queue.name: {"URL": redis_url, "SERIALIZER": JSON, "ASYNC": False}}

    RQBackend(queue=queue.name).send(payload(), None)

    (job_id,) = queue.job_ids
    job = RQJob.fetch(job_id, connection=queue.connection, serializer=JSON)
    assert json.loads(job.data) == [PERFORM, None, [payload()], {}]


@pytest.mark.parametrize(
    ("queues", "listed"), [(None, "none"), ({"high": {"URL": "redis://"}}, "'high'")], ids=["no queues", "others"]
)
def test_a_queue_that_is_not_there_is_refused(settings, queues, listed):
    settings.RQ_QUEUES = queues

    with pytest.raises(BadBackend, match=f"no queue 'low' in RQ_QUEUES, which has: {'.high.' if queues else 'none'}"):
        RQBackend(queue="low")


def test_a_check_recommends_json(settings, backend):
    assert [each.id for each in backend.check()] == ["massmigration_rq.I001"]

    settings.MASSMIGRATION_BACKEND_OPTIONS = {**settings.MASSMIGRATION_BACKEND_OPTIONS, "serializer": JSON}

    assert list(get_backend().check()) == []
    assert [each for each in run_checks(tags=[TAG]) if "massmigration" in each.id] == []


def test_a_check_says_what_is_wrong_with_options(settings):
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"quue": "x"}

    assert [each.id for each in run_checks(tags=[TAG]) if "massmigration" in each.id] == ["massmigration.E004"]


def test_the_finishing_job_follows_the_shards_though_some_fail(backend, queue, work):
    backend.send_all([payload(shard=shard) for shard in (1, 2)], payload(JobKind.FINISH))
    (finish,) = queue.deferred_job_registry.get_job_ids()

    assert queue.count == 2
    for job in queue.jobs:
        queue.remove(job)
        job.set_status(JobStatus.FAILED)
        queue.enqueue_dependents(job)

    assert queue.job_ids == [finish]


def test_no_finishing_job_depends_on_many(backend, queue):
    backend.send_all([payload(shard=shard) for shard in range(FEW + 1)], payload(JobKind.FINISH))

    assert queue.count == FEW + 1
    assert queue.deferred_job_registry.get_job_ids() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no job", "which is not a job"),
        (payload().replace('"v": 1', '"v": 99'), "version 99; this worker understands 1"),
        (payload().replace('"shard": 0', '"shard": 0, "new": 1'), "which is not a job"),
    ],
    ids=["not JSON", "newer version", "unknown field"],
)
def test_what_is_no_job_is_logged_once_and_dropped(queue, work, caplog, text, words):
    queue.enqueue(PERFORM, text, retry=Retry(max=3))

    with caplog.at_level(logging.ERROR, "massmigration_rq"):
        work()

    (record,) = [each for each in caplog.records if each.name.startswith("massmigration")]
    assert record.getMessage().startswith("Dropped a payload that is not a job.")
    assert words in record.getMessage()
    assert (queue.count, len(queue.failed_job_registry)) == (0, 0)


@pytest.mark.django_db(transaction=True)
def test_a_job_of_an_unknown_migration_is_logged_once_and_dropped(backend, queue, work, caplog):
    backend.send(payload(key="testapp:8000_unknown"), None)

    work()

    assert [each.levelname for each in caplog.records if each.name.startswith("massmigration")] == ["ERROR"]
    assert (queue.count, len(queue.failed_job_registry)) == (0, 0)


def test_a_worker_without_the_migrations_code_drops_no_work(db_alias, queue, work, monkeypatch, settings):
    settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=0.1)
    with monkeypatch.context() as patch:
        register(patch, Once)
        api.launch(KEY, db_alias)
    work()
    before = status(db_alias)
    register(monkeypatch, Once)

    while not api.recover(db_alias):
        pass
    work()

    assert before == "queued"
    assert status(db_alias) == "applied"


def test_a_launch_without_redis_says_so_and_is_sent_later(db_alias, queue, work, monkeypatch, settings, redis_url):
    register(monkeypatch, Once)
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"url": f"redis://127.0.0.1:{free_port()}/0", "queue": queue.name}

    api.launch(KEY, db_alias)
    said = api.not_sent(KEY, db_alias)

    assert status(db_alias) == "queued"
    assert Event.objects.using(db_alias).filter(key=KEY, verb="not sent").count() == 1
    assert "could not be sent (ConnectionError" in said
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"url": redis_url, "queue": queue.name}
    assert api.recover(db_alias) == 1
    work()
    assert status(db_alias) == "applied"


def test_what_is_sent_is_held_back_for_one_thread(backend, queue):
    with backend.capture_sends() as held:
        job = queue.enqueue(print, "held")
        queue.enqueue_in(dt.timedelta(hours=1), print, "later")
        queue.enqueue_many([Queue.prepare_data(print, args=["many"])])
        other = threading.Thread(target=queue.enqueue, args=[print, "other"])
        other.start()
        other.join()
    queue.enqueue(print, "after")

    assert job.id
    assert held == ["tests: builtins.print('held')", "tests: builtins.print('later')", "tests: several jobs"]
    assert [each.args for each in queue.jobs] == [("other",), ("after",)]
    assert queue.scheduled_job_registry.get_job_ids() == []


def test_health_counts_jobs_and_misses_workers(backend, queue, monkeypatch):
    backend.send(payload(), None)
    backend.queue.connection.set("rq:scheduler-lock:tests", "x")
    backend.send(payload(), dt.timedelta(hours=1))

    health = backend.health()

    assert (health.workers, health.queued) == (0, 1)
    assert health.details == {
        "queued": 1,
        "scheduled": 1,
        "deferred": 0,
        "started": 0,
        "failed": 0,
        "scheduler": "runs",
    }
    assert health.problem == "No RQ worker listens to the queue 'tests'. Start one for this queue."


def test_health_tells_of_a_redis_that_drops_keys(backend, queue):
    policy = queue.connection.config_get("maxmemory-policy")["maxmemory-policy"]
    queue.connection.config_set("maxmemory-policy", "allkeys-lru")

    health = backend.health()

    queue.connection.config_set("maxmemory-policy", policy)
    assert "noeviction" in health.problem


def test_a_backend_that_is_dropped_takes_its_connection_along(backend, queue, redis_url):
    dropped = RQBackend(url=redis_url, queue=queue.name)
    assert dropped.admin_actions
    dropped.send(payload(), None)
    client = weakref.ref(dropped.queue.connection)
    gc.disable()
    try:
        del dropped
        assert client() is None
    finally:
        gc.enable()


def test_a_redis_that_does_not_answer_stops_nobody(monkeypatch):
    backend = RQBackend(url=f"redis://127.0.0.1:{free_port()}/0")
    job = RQJob(connection=backend.queue.connection)
    job.worker_name = "one"
    monkeypatch.setattr("massmigration_rq.backend.get_current_job", lambda: job)

    assert not backend.supports_delay
    assert not backend.stop_requested()
