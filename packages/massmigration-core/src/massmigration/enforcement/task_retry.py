"""Retry of the current Celery task or RQ job. Neither library is imported here."""

from __future__ import annotations

import datetime as dt
import sys
from typing import Any

MOST_RETRIES = 1_000_000
"""A limit that is never reached. RQ needs a number, and for Celery None means the task's own limit, which is low."""

_NO_WORKER = (None, "", "sync")
"""Worker names of an RQ job that no worker has started, or that a queue with `is_async=False` runs itself."""


def retry_later(error: Exception, delay: dt.timedelta, args: tuple[Any, ...]) -> Any:
    """Have the queue run the current task again: raise Celery's exception for this, or return RQ's value for it.

    Raise `error` outside a worker, and if the task runs in the process that sent it, where no queue could wait.
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
    """Return the Celery task that is running, or None. A bound task is the first argument."""
    celery = sys.modules.get("celery")
    if celery is None:
        return None
    bound = args[0] if args and isinstance(args[0], celery.Task) else None
    task = bound or celery.current_task._get_current_object() if celery.current_task else bound
    return task if task is not None and not task.request.called_directly else None


def _retry_of_rq() -> Any:
    """Return the class of which an RQ job returns an instance, or None outside a worker and before RQ supports it."""
    rq = sys.modules.get("rq")
    if rq is None or not hasattr(rq.Worker, "handle_job_retry"):
        return None
    job = rq.get_current_job()
    return None if job is None or job.worker_name in _NO_WORKER else rq.Retry
