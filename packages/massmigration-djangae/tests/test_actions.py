"""The operators' actions on a queue, and its health."""

import pytest
from google.api_core import exceptions
from google.cloud import tasks_v2

from massmigration import api
from massmigration.exceptions import BackendActionFailed
from massmigration.models import Event
from massmigration_djangae import client
from testsupport import oracle
from testsupport.cloudtasks.fake import FakeCloudTasks
from testsupport.cloudtasks.signing import ACCOUNT

KEY = "testapp:0002_by_object"
QUEUE = "projects/example/locations/europe-west1/queues/default"
OPTIONS = {
    "project": "example",
    "location": "europe-west1",
    "url": "https://example.com/massmigration/run/",
    "service_account": ACCOUNT,
    "verifier": "testsupport.cloudtasks.signing.verify",
}

pytestmark = pytest.mark.parametrize("db_alias", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def cloud(settings, monkeypatch, db_alias):
    fake = FakeCloudTasks(QUEUE)
    settings.ROOT_URLCONF = "testsupport.cloudtasks.urls"
    settings.MASSMIGRATION_BACKEND = "massmigration_djangae.CloudTasksBackend"
    settings.MASSMIGRATION_BACKEND_OPTIONS = OPTIONS
    monkeypatch.setattr(client, "get", lambda emulator: fake)
    oracle.make_items(db_alias, 4)
    api.launch(KEY, db_alias, actor="code:test")
    return fake


def act(name, db_alias):
    (said,) = api.perform_backend_action(name, [KEY], db_alias, actor="ann")
    return said


def test_the_queue_is_paused_and_resumed(cloud, db_alias):
    assert act("pause_queue", db_alias) == "The queue default is paused."
    assert cloud.states[QUEUE] == tasks_v2.Queue.State.PAUSED
    assert "gcloud tasks queues resume default" in api.backend_health(KEY).problem

    assert act("resume_queue", db_alias) == "The queue default is running."
    health = api.backend_health(KEY)
    assert (health.queued, health.problem, health.details["state"]) == (1, "", "running")


def test_the_tasks_of_the_run_are_listed(cloud, db_alias):
    cloud.deliver(cloud.waiting.pop())
    cloud._create(tasks_v2.CreateTaskRequest(parent=QUEUE, task={"name": f"{QUEUE}/tasks/somebody-elses"}))

    assert act("list_tasks", db_alias) == f"{KEY}: 1 tasks: shard-0-0."


def test_what_was_purged_is_sent_again(cloud, db_alias):
    cloud.deliver(cloud.waiting.pop())

    assert act("purge_queue", db_alias) == "The queue default is being emptied."
    assert cloud.waiting == []
    assert act("send_lost", db_alias).startswith("Sent again: 1 run ")
    cloud.drain()

    assert oracle.counts(db_alias) == [1]
    assert api.status(KEY, db_alias).status == "applied"
    verbs = Event.objects.using(db_alias).filter(actor="ann").order_by("pk").values_list("verb", flat=True)
    assert list(verbs) == ["purge_queue", "send_lost"]


def test_what_is_in_the_queue_is_not_sent_again(cloud, db_alias):
    assert act("send_lost", db_alias).startswith("Sent again: 0 runs")
    assert len(cloud.waiting) == 1


def test_what_has_ended_is_not_sent_again(cloud, db_alias):
    cloud.drain()

    assert act("send_lost", db_alias).startswith("Sent again: 0 runs")
    assert cloud.waiting == []


def test_what_is_not_allowed_is_told(cloud, db_alias):
    cloud.error = exceptions.PermissionDenied("cloudtasks.queues.pause")

    with pytest.raises(BackendActionFailed, match=r"Could not pause the queue: this account lacks a permission"):
        act("pause_queue", db_alias)


def test_the_health_of_an_account_that_may_do_little_says_so(cloud, db_alias):
    cloud.error = exceptions.PermissionDenied("cloudtasks.queues.get")

    health = api.backend_health(KEY)

    assert (health.queued, health.problem) == (None, "")
    assert health.details["tasks"] == "this account may not list them"


def test_the_health_of_a_service_that_is_away_is_a_problem(cloud, db_alias, monkeypatch):
    monkeypatch.setattr(client.RETRY, "_timeout", 0.01)
    cloud.error = exceptions.ServiceUnavailable("failed to connect")

    assert "failed to connect" in api.backend_health(KEY).problem
