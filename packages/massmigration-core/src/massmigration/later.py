"""Has the queue that is running the present task run it again, without knowing any queue but by sight."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

MOST_RETRIES = 1_000_000
"""RQ wants a number; and Celery takes None for the task's own, which are few."""

_NO_WORKER = (None, "", "sync")
"""What RQ has as the worker of a job that nobody has begun, or that a queue with `is_async=False` runs itself."""


def retry_later(error: Exception, delay: dt.timedelta, args: tuple[Any, ...]) -> Any:
    """Raise what makes Celery run the present task again, or return what makes RQ do so; raise `error` elsewhere.

    Elsewhere is also where a task is run at once by who sends it: no queue could wait. Their modules are only looked
    at if somebody has imported them.
    """
    seconds = int(delay.total_seconds())
    task = _celery_task(args)
    if task is not None:
        if task.request.is_eager:
            raise error
        raise task.retry(exc=error, countdown=seconds, max_retries=MOST_RETRIES)
    retry = _retry_of_rq()
    if retry is None:
        raise error
    return retry(max=MOST_RETRIES, interval=seconds)


def _celery_task(args: tuple[Any, ...]) -> Any:
    """The task that is being run: a bound one is the first argument."""
    celery = sys.modules.get("celery")
    if celery is None:
        return None
    bound = args[0] if args and isinstance(args[0], celery.Task) else None
    task = bound or celery.current_task._get_current_object() if celery.current_task else bound
    return task if task is not None and not task.request.called_directly else None


def _retry_of_rq() -> Any:
    """The class whose instance a job returns, where this version of RQ knows it and a worker is running a job."""
    rq = sys.modules.get("rq")
    if rq is None or not hasattr(rq.Worker, "handle_job_retry"):
        return None
    job = rq.get_current_job()
    return None if job is None or job.worker_name in _NO_WORKER else rq.Retry
