"""Lookup of the queue for jobs, and of the jobs of one run in it."""

import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.utils import as_text

from massmigration.exceptions import BadBackend

PLACES = ("queued", "scheduled", "deferred", "started", "failed")


def find(name: str, url: str | None, serializer: Any) -> Queue:
    """Return the queue of this name from django-rq's settings, or at a URL. It is not connected yet.

    It is always an instance of RQ's own class: a queue of django-rq may send jobs only after a request, or after a
    transaction of another database. Raise `BadBackend` if there is no such queue.
    """
    known = {} if url else getattr(settings, "RQ_QUEUES", None) or {}
    if not url and (name not in known or importlib.util.find_spec("django_rq") is None):
        raise BadBackend(
            f"There is no queue {name!r} in RQ_QUEUES, which has: {', '.join(map(repr, known)) or 'none'}. Name one of "
            "these in MASSMIGRATION_TASK_QUEUE, or use RQ without django-rq: "
            'MASSMIGRATION_BACKEND_OPTIONS = {"url": "redis://localhost:6379/0"}.'
        )
    try:
        # django-rq is optional.
        connect = Redis.from_url if url else import_string("django_rq.queues.get_redis_connection")
        connection = connect(url or known[name])
        return Queue(name, connection=connection, serializer=serializer or known.get(name, {}).get("SERIALIZER"))
    except Exception as error:
        raise BadBackend(f"RQ's queue {name!r} cannot be used: {type(error).__name__}: {error}") from error


def prefix(attempt_id: object) -> str:
    """Return the prefix of the ids of a run's jobs. With it, they are found without reading any job."""
    return f"massmigration-{attempt_id}-"


def ids(queue: Queue, place: str) -> list[str]:
    """Return the ids of all jobs at a place. RQ's own methods would also clean up the registries."""
    if place == "queued":
        return list(queue.get_job_ids())
    found: Any = queue.connection.zrange(getattr(queue, f"{place}_job_registry").key, 0, -1)
    return [as_text(each).partition(":")[0] for each in found]


def jobs(queue: Queue, records: Sequence[Any], *places: str) -> Iterator[tuple[str, Job]]:
    """Yield the jobs of these records' runs, each with its place."""
    mine = tuple(prefix(record.attempt_id) for record in records)
    for place in places:
        wanted = [each for each in ids(queue, place) if each.startswith(mine)]
        for job in filter(None, Job.fetch_many(wanted, connection=queue.connection, serializer=queue.serializer)):
            yield place, job
