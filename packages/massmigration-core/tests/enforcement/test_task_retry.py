import datetime as dt
import logging

import celery
import pytest
import redis
import rq
from asgiref.sync import async_to_sync
from celery.exceptions import Retry
from celery.worker.request import Request

from massmigration.enforcement import requires_migration, retry_until_migrated
from massmigration.exceptions import RequiredMigrationNotApplied
from massmigration.models import MigrationRecord
from massmigration.states import Status

KEY = "testapp:0001_once"
AT_ONCE = dt.timedelta(0)
tries = []


@pytest.fixture(autouse=True)
def no_tries(db_alias):
    tries.clear()


@pytest.fixture
def app():
    app = celery.Celery("later", broker="memory://", set_as_current=False)
    yield app
    app.close()


def work(app):
    """Do what is in the queue, as a worker does, but without waiting for its time. Return what the last task did."""
    result = None
    with app.connection_for_read() as connection, connection.SimpleQueue(app.conf.task_default_queue) as queue:
        while queue.qsize():
            message = queue.get_nowait()
            result = Request(message, app=app).execute()
            message.ack()
    return result


def apply_migration(db_alias):
    MigrationRecord.objects.using(db_alias).create(key=KEY, status=Status.APPLIED)


def after_two_tries(db_alias):
    """Return a decorator that applies the migration at the third try. Its place is below the task's decorator."""

    def decorate(function):
        def counted(*args):
            tries.append(1)
            if len(tries) == 3:
                apply_migration(db_alias)
            return function(*args)

        counted.__name__ = function.__name__
        return counted

    return decorate


@pytest.mark.parametrize("is_bound", [True, False], ids=["bound", "free"])
def test_a_task_of_celery_is_tried_again_until_it_is_applied(db_alias, app, is_bound):
    @app.task(bind=is_bound, max_retries=0, shared=False)
    @after_two_tries(db_alias)
    @retry_until_migrated(KEY, db_alias, skip_in_tests=False, delay=AT_ONCE)
    def task(*args):
        return args[-1]

    task.delay(42)

    assert work(app) == 42
    assert len(tries) == 3


@pytest.mark.parametrize("is_bound", [True, False], ids=["bound", "free"])
def test_a_task_of_celery_that_is_run_at_once_raises(db_alias, app, is_bound):
    @app.task(bind=is_bound, shared=False)
    @after_two_tries(db_alias)
    @retry_until_migrated(KEY, db_alias, skip_in_tests=False, delay=AT_ONCE)
    def task(*args):
        return args[-1]

    app.conf.task_always_eager = True
    done = task.delay(42)

    with pytest.raises(RequiredMigrationNotApplied):
        done.get()
    assert len(tries) == 1


def test_a_task_of_celery_waits_as_long_as_it_is_told(db_alias, app):
    @app.task(bind=True, shared=False)
    @retry_until_migrated(KEY, db_alias, skip_in_tests=False, delay=dt.timedelta(minutes=5))
    def task(self):
        return 42

    task.push_request(called_directly=False, is_eager=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "apply_async", lambda *args, **kwargs: None)
        patch.setattr("celery.app.task.Task.signature_from_request", lambda *args, **kwargs: Signature(kwargs))
        with pytest.raises(Retry) as caught:
            task.run()

    assert caught.value.when == 300
    assert isinstance(caught.value.exc, RequiredMigrationNotApplied)


class Signature:
    def __init__(self, options):
        self.options = options

    def apply_async(self):
        assert self.options["countdown"] == 300


def job_for_rq(db_alias):
    return (after_two_tries(db_alias)(retry_until_migrated(KEY, db_alias, skip_in_tests=False, delay=AT_ONCE)(answer)))(
        42
    )


def answer(value):
    return value


def test_a_job_of_rq_is_tried_again_until_it_is_applied(db_alias, redis_url):
    connection = redis.Redis.from_url(redis_url)
    queue = rq.Queue("later", connection=connection)
    job = queue.enqueue(f"{__name__}.job_for_rq", db_alias)

    logging.getLogger("rq.worker").disabled = True
    rq.SimpleWorker([queue], connection=connection).work(burst=True)

    knows_retries = hasattr(rq.Worker, "handle_job_retry")  # since RQ 2
    expected = ("finished", 42, 3) if knows_retries else ("failed", None, 1)
    assert (job.get_status(), job.return_value(), len(tries)) == expected


def test_a_job_of_rq_that_is_run_at_once_raises(db_alias, redis_url):
    connection = redis.Redis.from_url(redis_url)
    queue = rq.Queue("later", connection=connection, is_async=False)

    job = queue.enqueue(f"{__name__}.job_for_rq", db_alias)

    assert (job.get_status(), len(tries)) == ("failed", 1)
    assert "RequiredMigrationNotApplied" in job.latest_result().exc_string


def test_elsewhere_it_raises(db_alias, app):
    decorated = retry_until_migrated(KEY, db_alias, skip_in_tests=False)(answer)

    with pytest.raises(RequiredMigrationNotApplied):
        decorated(42)
    with pytest.raises(RequiredMigrationNotApplied):
        app.task(shared=False)(decorated)(42)


def test_in_tests_it_runs(db_alias):
    assert retry_until_migrated(KEY, db_alias)(answer)(42) == 42


def test_anything_can_be_done_instead_of_raising(db_alias):
    def instead(error, *args, **kwargs):
        return type(error), args, kwargs

    decorated = requires_migration(KEY, db_alias, skip_in_tests=False, on_missing=instead)(answer)

    assert decorated(1) == (RequiredMigrationNotApplied, (1,), {})
    apply_migration(db_alias)
    assert decorated(1) == 1


def test_it_can_be_awaited(db_alias):
    async def code(value):
        return value

    async def instead(error, *args):
        return "later"

    decorated = requires_migration(KEY, db_alias, skip_in_tests=False, on_missing=instead)(code)

    assert async_to_sync(decorated)(1) == "later"
    apply_migration(db_alias)
    assert async_to_sync(decorated)(1) == 1
