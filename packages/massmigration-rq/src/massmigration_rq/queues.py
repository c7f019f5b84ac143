"""Finds the queue that jobs go to, and the jobs of single runs in it."""

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
    """A queue that django-rq knows, or one at a URL, not connected yet. Raise `BadBackend` if there is none.

    Always of RQ's own class: django-rq's may wait for the end of a request, or of a transaction of another database.
    """
    known = {} if url else getattr(settings, "RQ_QUEUES", None) or {}
    if not url and (name not in known or importlib.util.find_spec("django_rq") is None):
        raise BadBackend(
            f"There is no queue {name!r} in django-rq; RQ_QUEUES has: {', '.join(map(repr, known)) or 'none'}. "
            'Name one, or give the address of a Redis: MASSMIGRATION_BACKEND_OPTIONS = {"url": "redis://localhost:6379/0"}.'
        )
    try:
        # Imported when needed: django-rq is optional.
        connect = Redis.from_url if url else import_string("django_rq.queues.get_redis_connection")
        connection = connect(url or known[name])
        return Queue(name, connection=connection, serializer=serializer or known.get(name, {}).get("SERIALIZER"))
    except Exception as error:
        raise BadBackend(f"RQ's queue {name!r} cannot be used: {type(error).__name__}: {error}") from error


def prefix(attempt_id: object) -> str:
    """What the ids of a run's jobs begin with, so that they are found without reading anyone's jobs."""
    return f"massmigration-{attempt_id}-"


def ids(queue: Queue, place: str) -> list[str]:
    """Of all jobs at a place. RQ's own methods would clean up on the way."""
    if place == "queued":
        return list(queue.get_job_ids())
    found: Any = queue.connection.zrange(getattr(queue, f"{place}_job_registry").key, 0, -1)
    return [as_text(each).partition(":")[0] for each in found]


def jobs(queue: Queue, records: Sequence[Any], *places: str) -> Iterator[tuple[str, Job]]:
    """The jobs of these records' runs, each with its place."""
    mine = tuple(prefix(record.attempt_id) for record in records)
    for place in places:
        wanted = [each for each in ids(queue, place) if each.startswith(mine)]
        for job in filter(None, Job.fetch_many(wanted, connection=queue.connection, serializer=queue.serializer)):
            yield place, job
