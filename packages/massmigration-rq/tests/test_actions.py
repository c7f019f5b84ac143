import datetime as dt

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client
from django.urls import reverse
from rq.job import JobStatus

from massmigration import api
from massmigration.migrations import SimpleMigration
from massmigration.models import Event, MigrationRecord
from testsupport.inline_migrations import register

KEY = "testapp:9000_adhoc"


class Once(SimpleMigration):
    def operation(self, db_alias):
        pass


@pytest.fixture(autouse=True)
def launched(settings, db_alias, queue, redis_url, monkeypatch):
    settings.MASSMIGRATION_BACKEND = "massmigration_rq.RQBackend"
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"url": redis_url, "queue": queue.name}
    register(monkeypatch, Once)
    queue.enqueue(print, "somebody else's")
    api.launch(KEY, db_alias)


@pytest.fixture
def act(db_alias):
    """A function that chooses an action in the admin's list, confirms it, and returns the messages."""
    user = User.objects.create_user("ann", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__endswith="_migrationrecord"))
    client = Client()
    client.force_login(user)
    url = f"{reverse('admin:massmigration_migrationrecord_changelist')}?db={db_alias}"

    def act(name):
        data = {"action": f"backend_{name}", "_selected_action": KEY}
        assert 'name="confirmed"' in client.post(url, data).content.decode()
        response = client.post(url, {**data, "confirmed": "yes"})
        told = [str(message) for message in get_messages(response.wsgi_request)]
        event = Event.objects.using(db_alias).order_by("-pk").filter(verb=name).first()
        assert [(event.actor, event.detail)] == [("ann", text) for text in told]
        return told[0]

    return act


def others(queue):
    return [job for job in queue.jobs if job.func_name == "builtins.print"]


def fail(queue):
    """Move the run's job to RQ's registry of failed jobs, and return it."""
    (job,) = [job for job in queue.jobs if job not in others(queue)]
    queue.remove(job)
    queue.failed_job_registry.add(job)
    return job


def test_jobs_are_shown(act, queue):
    fail(queue)

    assert act("show_jobs") == f"failed: massmigration {KEY}, plan of stage 0"


def test_jobs_of_others_are_not_shown(act, queue):
    fail(queue).delete()

    assert act("show_jobs") == "RQ has no jobs of these migrations."


def test_failed_jobs_are_requeued(act, queue, work, db_alias):
    fail(queue)

    assert act("requeue") == "Requeued 1 failed job in RQ's queue 'tests'."

    work()
    assert MigrationRecord.objects.using(db_alias).get().status == "applied"


def test_queued_jobs_are_deleted(act, queue):
    assert act("delete_jobs") == "Deleted 1 job from RQ's queue 'tests'."

    assert queue.jobs == others(queue)


def test_scheduled_jobs_are_deleted(act, queue):
    (job,) = [job for job in queue.jobs if job not in others(queue)]
    queue.remove(job)
    job.set_status(JobStatus.SCHEDULED)
    queue.schedule_job(job, dt.datetime.now(dt.timezone.utc))

    act("delete_jobs")

    assert queue.scheduled_job_registry.get_job_ids() == []


def test_lost_shards_are_sent_again(act, queue, work, db_alias):
    queue.empty()

    act("send_again")

    work()
    assert MigrationRecord.objects.using(db_alias).get().status == "applied"
