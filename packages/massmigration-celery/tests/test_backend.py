import contextlib
import datetime as dt
import uuid

import pytest
from celery import shared_task
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.jobs import Job, JobKind
from massmigration.models import Event, MigrationRecord
from massmigration_celery import CeleryBackend, tasks
from testsupport.celery_client import client_of
from testsupport.threads import PATIENCE

KEY = "testapp:0004_by_batch"


@shared_task(name="tests.mail")
def mail(address):
    raise AssertionError("It was called.")


@pytest.fixture
def app(redis_url, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration_celery.CeleryBackend"
    with client_of(redis_url) as app:
        yield app


@contextlib.contextmanager
def queue_of(app, name=None):
    with app.connection_for_write() as connection:
        yield connection.default_channel.client, name or app.conf.task_default_queue


def waiting(app, name=None):
    with queue_of(app, name) as (client, queue):
        return client.llen(queue)


def ids(backend):
    return [message.id for message in backend.check()]


def some_job(**fields):
    values = {"kind": JobKind.SHARD, "key": KEY, "db_alias": "default", "attempt_id": str(uuid.uuid4())}
    return Job(**{**values, **fields}).dumps()


def test_options_are_those_of_the_task(app):
    CeleryBackend(queue="slow", priority=0).send(some_job(), dt.timedelta(seconds=5))

    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("slow").get(timeout=PATIENCE)
        assert message.headers["eta"] is not None
        assert message.properties["priority"] == 0
        assert message.content_type == "application/json"
        message.ack()


def test_the_queue_of_the_settings_is_used_but_a_migration_may_name_another(app, settings):
    settings.MASSMIGRATION_TASK_QUEUE = "migrations"
    backend = get_backend()

    backend.send(some_job(), None)

    assert backend.options == {"queue": "migrations"}
    assert waiting(app, "migrations") >= 1


@pytest.mark.parametrize(
    ("conf", "options", "expected"),
    [
        ({}, {}, None),
        ({"task_time_limit": 60, "task_soft_time_limit": 40}, {}, 40),
        ({"task_time_limit": 60}, {"soft_time_limit": 10}, 10),
    ],
    ids=["none", "of the app", "of the options"],
)
def test_the_least_time_limit_is_the_one(redis_url, conf, options, expected):
    with client_of(redis_url, **conf):
        tasks.job.bind(tasks.job.app)
        limit = CeleryBackend(**options).hard_time_limit()

    assert limit == (expected and dt.timedelta(seconds=expected))


def test_the_limits_of_the_worker_count(app, monkeypatch):
    class Worker:
        time_limit, soft_time_limit = 30, None

    monkeypatch.setattr(tasks, "this_worker", Worker)

    assert CeleryBackend().hard_time_limit() == dt.timedelta(seconds=30)
    assert CeleryBackend().job_duration() == dt.timedelta(seconds=15)


@pytest.mark.parametrize(
    ("conf", "options", "expected"),
    [
        ({"result_backend": "redis://localhost"}, {}, []),
        ({}, {}, ["massmigration_celery.I001"]),
        ({"result_backend": "rpc://"}, {}, ["massmigration_celery.I001"]),
        ({"result_backend": "file:///tmp"}, {}, ["massmigration_celery.I001"]),
        ({"result_backend": "cache+memory://"}, {}, []),
        ({"result_backend": "cache+memory://", "task_always_eager": True}, {}, ["massmigration_celery.I001"]),
        ({"result_backend": "redis://localhost"}, {"que": "x"}, ["massmigration_celery.E001"]),
        (
            {"result_backend": "redis://localhost", "broker_transport_options": {"visibility_timeout": 20}},
            {},
            ["massmigration_celery.W001"],
        ),
    ],
    ids=[
        "chord",
        "no results",
        "no chords",
        "does not count",
        "counts",
        "eager",
        "unknown option",
        "visibility timeout",
    ],
)
def test_checks(redis_url, conf, options, expected):
    with client_of(redis_url, **conf):
        assert ids(CeleryBackend(**options)) == expected


@pytest.mark.parametrize(("counts", "expected"), [(True, [True, True]), (False, [False, False])])
def test_only_a_result_backend_that_counts_gets_a_chord(redis_url, tmp_path, counts, expected):
    with client_of(redis_url, result_backend=redis_url if counts else tmp_path.as_uri()) as app:
        CeleryBackend().send_all([some_job(), some_job()], some_job(kind=JobKind.FINISH))

        with app.connection_for_read() as connection:
            queue = connection.SimpleQueue(app.conf.task_default_queue)
            found = [queue.get(timeout=PATIENCE) for _ in range(waiting(app))]
            for message in found:
                message.ack()

    assert [bool(message.payload[2]["chord"]) for message in found] == expected


@pytest.mark.parametrize("db_alias", ["default"], indirect=True)
def test_a_job_of_an_unknown_migration_goes_back_to_celery(app, db_alias, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.local.LocalBackend"
    key = "testapp:0998_undeployed"
    record = MigrationRecord.objects.using(db_alias).create(key=key, status="queued", is_managed=True)

    tasks.job.apply((some_job(key=key, db_alias=db_alias, attempt_id=str(record.attempt_id)),))

    assert waiting(app) == 1


def test_a_check_warns_where_there_is_no_app(settings):
    assert "massmigration_celery.W002" in ids(CeleryBackend())


def test_a_short_visibility_timeout_of_another_broker_is_its_own_affair(redis_url):
    transport = {"broker_transport_options": {"visibility_timeout": 20}, "result_backend": redis_url}
    with client_of("amqp://localhost", **transport):
        assert ids(CeleryBackend()) == []


def test_health_counts_the_queue_and_says_that_no_worker_answers(app):
    CeleryBackend().send(some_job(), None)
    health = CeleryBackend().health()

    assert (health.workers, health.queued) == (0, 1)
    assert "No worker of the queue" in health.problem


def test_health_warns_of_a_redis_that_evicts(app):
    with queue_of(app) as (client, _):
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            health = CeleryBackend().health()
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")

    assert "Set it to noeviction" in health.problem


@pytest.mark.slow
def test_health_of_a_broker_that_is_down_is_a_problem(db_alias, settings):
    settings.MASSMIGRATION_BACKEND = "massmigration_celery.CeleryBackend"
    with client_of("redis://127.0.0.1:1"):
        assert "The queue does not respond." in api.backend_health(KEY).problem


def test_what_a_dry_run_would_send_is_listed(app):
    with CeleryBackend().capture_sends() as held:
        mail.delay("ann@example.org")
        mail.s("bob@example.org").apply_async(countdown=5)
        app.send_task("elsewhere.report")
    mail.apply_async(("eve@example.org",))

    assert held == ["Celery task tests.mail", "Celery task tests.mail", "Celery task elsewhere.report"]
    assert waiting(app) == 1


class TestActions:
    @pytest.fixture
    def client(self, db_alias):
        user = User.objects.create_user("ann", is_staff=True)
        names = ["view_migrationrecord", "control_migrationrecord"]
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client = Client()
        client.force_login(user)
        return client

    def act(self, client, db_alias, name):
        url = f"{reverse('admin:massmigration_migrationrecord_changelist')}?db={db_alias}"
        data = {"action": f"backend_{name}", "_selected_action": KEY}
        asked = client.post(url, data).content.decode()
        assert 'name="confirmed"' in asked
        response = client.post(url, {**data, "confirmed": "yes"})
        event = Event.objects.using(db_alias).latest("pk")
        assert (event.verb, event.actor) == (name, "ann")
        (message,) = [message.message for message in get_messages(response.wsgi_request)]
        return message

    def test_revoke_takes_the_tasks_of_this_run_only(self, app, db_alias, client):
        api.launch(KEY, db_alias)
        mail.delay("ann@example.org")
        get_backend().send(some_job(), None)

        said = self.act(client, db_alias, "revoke")

        assert said.startswith("Revoked 1 tasks in queue")
        assert waiting(app) == 2

    def test_lost_shards_are_sent_again(self, app, db_alias, client):
        api.launch(KEY, db_alias)
        with queue_of(app) as (redis, queue):
            redis.delete(queue)

        said = self.act(client, db_alias, "send_again")

        assert said == f"Sent the remaining jobs of {KEY} again."
        assert waiting(app) == 1

    def test_show_says_when_nobody_does_anything(self, app, db_alias, client):
        MigrationRecord.objects.using(db_alias).create(key=KEY, status="running", is_managed=True)

        assert self.act(client, db_alias, "show_workers") == "No worker that answered runs a task of these migrations."
