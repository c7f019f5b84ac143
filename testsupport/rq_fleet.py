"""Real RQ workers for tests."""

from __future__ import annotations

import sys

from rq import Queue

from massmigration import api
from testsupport import oracle
from testsupport.fleet import ProcessFleet

KEY = "testapp:0004_by_batch"
QUEUE = "low"
BATCH = 100
PAUSE = 0.005
"""A batch lasts this long for each row, nearly all of it in an open transaction."""

# Runs the management command of django-rq, which is not among the installed apps of other tests.
MANAGE = (
    "import sys; from django.conf import settings; from django.core.management import execute_from_command_line; "
    "settings.INSTALLED_APPS.append('django_rq'); execute_from_command_line(sys.argv)"
)


def forking(db_alias, url, *arguments, retries=3, **settings):
    """Return workers of django-rq, on one of its queues."""
    command = [sys.executable, "-c", MANAGE, "rqworker", QUEUE, *arguments]
    return fleet(
        db_alias, command, {"RQ_QUEUES": {QUEUE: {"URL": url}}}, {"queue": QUEUE, "retries": retries}, **settings
    )


def simple(db_alias, url, *arguments, worker_class="rq.SimpleWorker", **settings):
    """Return workers of plain RQ, with the Redis at this URL."""
    words = ["rq.cli", "worker", "--url", url, "--worker-class", worker_class, *arguments, QUEUE]
    return fleet(db_alias, [sys.executable, "-m", *words], {}, {"queue": QUEUE, "url": url}, **settings)


def recovering(db_alias, url, **settings):
    """Return workers of django-rq of the class `massmigration_rq.Worker`."""
    return forking(db_alias, url, "--worker-class", "massmigration_rq.Worker", **settings)


def recovering_simple(db_alias, url, **settings):
    """Return workers of plain RQ of the class `massmigration_rq.SimpleWorker`."""
    return simple(db_alias, url, worker_class="massmigration_rq.SimpleWorker", **settings)


def recovering_plain(db_alias, url, **settings):
    """Return workers of plain RQ of the class `massmigration_rq.Worker`."""
    return simple(db_alias, url, worker_class="massmigration_rq.Worker", **settings)


def spawning(db_alias, url, **settings):
    return simple(db_alias, url, worker_class="rq.worker.SpawnWorker", **settings)


def fleet(db_alias, command, more, options, **settings):
    short = {"LEASE": 1, "JOB_DURATION": 1, "BATCH_DURATION": 0.3, "BATCH_SIZE": BATCH, "MAX_SET_SIZE": BATCH}
    more = {**more, "MASSMIGRATION_BACKEND": "massmigration_rq.RQBackend", "MASSMIGRATION_BACKEND_OPTIONS": options}
    return ProcessFleet(db_alias, command, ready="Listening on", more=more, **{**short, "SHARDS": 8, **settings})


def launch(fleet, rows):
    oracle.make_items(fleet.db_alias, rows)
    api.launch(KEY, fleet.db_alias, actor="code:test")


def queue_of(connection):
    return Queue(QUEUE, connection=connection)


def put_clock_forward(connection, seconds):
    """Move the deadlines of the started jobs back, so that RQ sees that their workers' heartbeats are overdue."""
    registry = queue_of(connection).started_job_registry
    for member, score in connection.zrange(registry.key, 0, -1, withscores=True):
        connection.zadd(registry.key, {member: score - seconds})
