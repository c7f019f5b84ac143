"""Sending and receiving through a fake of Cloud Tasks that remembers names, checks deadlines and signs.

The emulator does none of these three; see `test_contract.py` for what it does.
"""

import datetime as dt
import json
import threading

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.test import Client
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import tasks_v2

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.jobs import Job, JobKind
from massmigration.migrations import MapperMigration
from massmigration.models import Event, MigrationRecord
from massmigration.testing import BackendContract
from massmigration_djangae import client
from massmigration_djangae.options import Options
from testsupport import oracle
from testsupport.cloudtasks.fake import FakeCloudTasks
from testsupport.cloudtasks.signing import ACCOUNT, token
from testsupport.inline_migrations import register
from testsupport.testapp.models import Item
from testsupport.worker_processes import wait_until

KEY = "testapp:0002_by_object"
QUEUE = "projects/example/locations/europe-west1/queues/slow"
URL = "https://example.com/massmigration/run/"
PATH = "/massmigration/run/"
OPTIONS = {
    "project": "example",
    "location": "europe-west1",
    "queue": "slow",
    "url": URL,
    "service_account": ACCOUNT,
    "verifier": "testsupport.cloudtasks.signing.verify",
}
BACKEND = "massmigration_djangae.CloudTasksBackend"


@pytest.fixture(autouse=True)
def cloud(settings, monkeypatch):
    """The fake, instead of the client."""
    fake = FakeCloudTasks(QUEUE)
    settings.ROOT_URLCONF = "testsupport.cloudtasks.urls"
    settings.MASSMIGRATION_BACKEND = BACKEND
    settings.MASSMIGRATION_BACKEND_OPTIONS = OPTIONS
    monkeypatch.setattr(client, "get", lambda emulator: fake)
    monkeypatch.setattr(client.RETRY, "_initial", 0.001)
    monkeypatch.setattr(client.RETRY, "_timeout", 0.1)
    return fake


def launch(db_alias, rows=5):
    oracle.make_items(db_alias, rows)
    api.launch(KEY, db_alias, actor="code:test")


def status(db_alias, key=KEY):
    return MigrationRecord.objects.using(db_alias).get(key=key).status


def assert_done_once(db_alias):
    assert status(db_alias) == "applied"
    assert oracle.counts(db_alias) == [1]
    assert oracle.calls(db_alias) == oracle.rows(db_alias)


def post(body, path=PATH, **headers):
    headers.setdefault("Authorization", f"Bearer {token(URL)}")
    return Client().post(path, body, content_type="application/json", headers=headers)


class TestContractWithNamesKnownAgain(BackendContract):
    """The contract with signed deliveries and with named tasks, whose names the queue remembers."""

    backend_path = BACKEND
    backend_options = OPTIONS

    @pytest.fixture(autouse=True)
    def _cloud(self, cloud):
        self.cloud = cloud

    def drain(self):
        self.cloud.drain()


def test_a_task_says_where_when_and_for_whom(cloud):
    payload = Job(kind=JobKind.SHARD, key=KEY, db_alias="default", attempt_id="0" * 32, stage=1, shard=7).dumps()
    before = dt.datetime.now(dt.timezone.utc)

    get_backend().send(payload, dt.timedelta(minutes=5))

    (task,) = cloud.waiting
    assert task.name.startswith(f"{QUEUE}/tasks/")
    assert task.name.endswith(f"-{'0' * 32}-shard-1-7")
    assert (task.http_request.url, task.http_request.http_method) == (URL, tasks_v2.HttpMethod.POST)
    assert task.http_request.oidc_token.service_account_email == ACCOUNT
    assert task.http_request.oidc_token.audience == URL
    assert json.loads(task.http_request.body) == json.loads(payload)
    wait = task.schedule_time - before
    assert dt.timedelta(minutes=5) <= wait < dt.timedelta(minutes=6)


@pytest.mark.parametrize(
    ("job_duration", "deadline", "expected"),
    [(15, None, 600), (600, None, 1200), (7200, None, 1800), (15, 60, 60), (15, 7200, 1800), (15, 1, 15)],
    ids=["the service's own", "of a long job", "of the longest", "given", "too long", "too short"],
)
def test_the_deadline_is_that_of_the_longest_job(settings, cloud, job_duration, deadline, expected):
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(seconds=job_duration)
    given = {"deadline": dt.timedelta(seconds=deadline)} if deadline else {}
    settings.MASSMIGRATION_BACKEND_OPTIONS = OPTIONS | given

    get_backend().send("{}", None)

    assert cloud.waiting[0].dispatch_deadline == dt.timedelta(seconds=expected)
    assert get_backend().job_duration() * 2 <= (get_backend().given.deadline or dt.timedelta(seconds=1800))


def test_a_task_whose_answer_was_lost_is_not_created_twice(cloud):
    cloud.answers_lost = 2

    get_backend().send("{}", None)

    assert cloud.calls.count("create_task") == 2
    assert len(cloud.waiting) == 1


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_what_is_delivered_twice_sends_once(cloud, db_alias, settings, monkeypatch):
    monkeypatch.setattr("massmigration.paging.sharding.MIN_SHARD_SIZE", 1)
    settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)
    settings.MASSMIGRATION_BATCH_SIZE = 1
    launch(db_alias, 16)

    plan = cloud.waiting.pop()
    cloud.deliver(plan, times=2)

    assert len(cloud.waiting) == 8
    cloud.drain(times=2)
    assert_done_once(db_alias)
    assert max(cloud.deliveries.count(each) for each in cloud.deliveries) == 2


def test_the_same_job_sent_twice_on_purpose_is_two_tasks(cloud):
    for _ in range(2):
        get_backend().send("{}", None)

    assert len(cloud.waiting) == 2


def test_nothing_is_sent_before_the_commit(cloud, db_alias):
    with transaction.atomic(using=db_alias):
        launch(db_alias)
        assert cloud.waiting == []

    assert len(cloud.waiting) == 1


ERRORS = {
    "no credentials": (DefaultCredentialsError("Your default credentials were not found."), "gcloud auth"),
    "wrong queue": (exceptions.NotFound("Queue does not exist."), "gcloud tasks queues create slow --project=example"),
    "wrong project": (exceptions.InvalidArgument("Location is not valid."), "Correct the project, location or queue"),
    "not allowed": (exceptions.PermissionDenied("lacks permission"), "roles/cloudtasks.enqueuer"),
    "unavailable": (exceptions.ServiceUnavailable("failed to connect"), "Wait until it answers"),
    "anything else": (exceptions.Cancelled("cancelled"), "Cancelled: cancelled"),
}


@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_what_cannot_be_sent_stays_queued_and_is_sent_later(cloud, db_alias, settings, capsys, error, words):
    settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=0.05)
    cloud.error = error

    launch(db_alias)

    event = Event.objects.using(db_alias).get(verb="not sent")
    assert status(db_alias) == "queued"
    assert words in event.detail
    assert "massmigrate --recover" in event.detail
    cloud.error = None
    wait_until(lambda: call_command("massmigrate", "--recover") or cloud.waiting)
    cloud.drain()
    assert_done_once(db_alias)


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_queue_that_stands_still_is_told_at_launch(cloud, db_alias, settings, capsys):
    settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=0.05)
    cloud.states[QUEUE] = tasks_v2.Queue.State.PAUSED

    launch(db_alias)

    assert "gcloud tasks queues resume slow" in Event.objects.using(db_alias).get(verb="not sent").detail
    assert (status(db_alias), cloud.waiting) == ("queued", [])
    cloud.states[QUEUE] = tasks_v2.Queue.State.RUNNING
    wait_until(lambda: call_command("massmigrate", "--recover") or cloud.waiting)
    cloud.drain()
    assert_done_once(db_alias)


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_queue_paused_in_the_middle_keeps_the_jobs(cloud, db_alias):
    launch(db_alias)
    cloud.states[QUEUE] = tasks_v2.Queue.State.PAUSED
    cloud.deliver(cloud.waiting.pop())

    assert len(cloud.waiting) == 1
    cloud.drain()
    assert_done_once(db_alias)


def test_an_account_that_may_not_look_at_the_queue_may_send(cloud, db_alias, monkeypatch):
    def refuse(request, retry=None, timeout=None):
        raise exceptions.PermissionDenied("cloudtasks.queues.get")

    monkeypatch.setattr(cloud, "get_queue", refuse)

    launch(db_alias)

    assert len(cloud.waiting) == 1


@pytest.mark.parametrize("missing", ["project", "location", "url", "service_account"])
def test_nothing_is_sent_without_the_options(cloud, settings, missing, monkeypatch):
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    given = {name: value for name, value in OPTIONS.items() if name not in (missing, "verifier")}
    settings.MASSMIGRATION_BACKEND_OPTIONS = given

    with pytest.raises(Exception, match=f"CloudTasksBackend needs '{missing}'"):
        get_backend().send("{}", None)

    assert cloud.waiting == []


BAD_BODIES = {
    "empty": "",
    "not JSON": "no job",
    "not text": b"\xff\xfe",
    "not an object": "[]",
    "a newer version": json.dumps({"v": 99, "kind": "plan"}),
    "too long": json.dumps({"v": 1, "key": "x" * 20_000}),
    "too long for Django": b"x" * 3_000_000,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_what_is_no_job_is_dropped_with_a_log_line(caplog, body):
    response = post(body)

    assert (response.status_code, response.content) == (200, b"Dropped.")
    assert "Dropped task" in caplog.text


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_what_is_no_job_is_refused_from_others(body):
    assert post(body, Authorization="").status_code == 403


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_job_of_an_unknown_migration_is_dropped(db_alias, caplog):
    job = Job(kind=JobKind.PLAN, key="testapp:0099_gone", db_alias=db_alias, attempt_id="0" * 32)

    assert post(job.dumps()).status_code == 200
    assert "Dropped a job of migration 'testapp:0099_gone'" in caplog.text


@pytest.mark.parametrize("method", ["get", "head", "put", "delete", "options"])
def test_only_posts_are_taken(method):
    assert getattr(Client(), method)(PATH).status_code == 405


def test_an_unforeseen_error_brings_the_job_back(monkeypatch, cloud, db_alias):
    def fail(payload):
        raise OSError("the disk is full")

    launch(db_alias)
    with monkeypatch.context() as patch:
        patch.setattr("massmigration.worker.perform", fail)
        assert cloud.deliver(cloud.waiting.pop()) == 503
    cloud.drain()

    assert_done_once(db_alias)


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_requests_in_transactions_and_behind_logins_do_no_harm(db_alias, settings, cloud, monkeypatch):
    monkeypatch.setitem(connections[db_alias].settings_dict, "ATOMIC_REQUESTS", True)
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "testsupport.cloudtasks.middleware.LoginEverywhere"]

    launch(db_alias)
    cloud.drain()

    assert_done_once(db_alias)
    assert cloud.refusals == 0


def test_each_process_has_one_client(monkeypatch):
    monkeypatch.undo()
    made = []
    monkeypatch.setattr(client, "connect", lambda emulator: made.append(emulator) or object())
    monkeypatch.setattr(client, "_clients", {})

    found = {id(client.get("127.0.0.1:1")) for _ in range(3)}
    monkeypatch.setattr(client.os, "getpid", lambda: -1)
    client.get("127.0.0.1:1")

    assert (len(found), len(made)) == (1, 2)


class SendsATask(MapperMigration):
    def get_queryset(self, db_alias):
        return Item.objects.all()

    def operation(self, obj, db_alias):
        anonymous = tasks_v2.CloudTasksClient.__new__(tasks_v2.CloudTasksClient)
        anonymous.create_task(parent=QUEUE, task={"http_request": {"url": "https://example.com/mail/"}})


@pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)
def test_a_dry_run_lists_what_code_would_send(db_alias, monkeypatch):
    oracle.make_items(db_alias, 2)
    key = register(monkeypatch, SendsATask)

    with get_backend().capture_sends() as held:
        SendsATask(*key.split(":")).operation(None, db_alias)

    assert held == [f"Task in {QUEUE} for https://example.com/mail/"]


def test_what_other_threads_send_is_not_held_back():
    seen = []

    def send():
        try:
            tasks_v2.CloudTasksClient.create_task(None)
        except Exception as error:
            seen.append(type(error))

    with get_backend().capture_sends() as held:
        thread = threading.Thread(target=send)
        thread.start()
        thread.join()

    assert (held, seen) == ([], [AttributeError])


def test_the_options_have_defaults_from_the_environment(monkeypatch, settings):
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "mine")
    monkeypatch.setenv("TASKS_EMULATOR_HOST", "127.0.0.1:1")
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"location": "europe-west1", "url": URL}

    given = get_backend().given

    assert given == Options(
        project="mine", emulator="127.0.0.1:1", location="europe-west1", queue="default", url=URL, audience=URL
    )
