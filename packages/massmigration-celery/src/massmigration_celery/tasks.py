"""The tasks of Celery's workers, and what a worker knows of itself."""

from __future__ import annotations

import logging
import mmap
from typing import Any

from celery import shared_task, signals
from celery.exceptions import Ignore

from massmigration import worker
from massmigration.exceptions import BadPayload
from massmigration_celery.healing import healer

logger = logging.getLogger(__name__)

CARRIER = "massmigration_celery.CeleryBackend"  # of jobs of migrations that this worker does not know

this_worker: Any = None  # the one that this process, or its parent, is
is_stopping = mmap.mmap(-1, 1)  # shared with the processes of its pool, of which only the parent is told


@shared_task(
    name="massmigration.job",
    bind=True,
    serializer="json",
    acks_late=True,
    reject_on_worker_lost=True,
    ignore_result=True,
    max_retries=10,
)
def job(self: Any, payload: str) -> None:
    """Work at one job."""
    try:
        worker.perform(payload, carrier=CARRIER)
    except BadPayload as error:
        logger.error("Dropped a task: %s", error)
    except Exception as error:
        raise self.retry(exc=error, countdown=min(2**self.request.retries, 60)) from error
    if getattr(self.request, "is_replaced", False):
        raise Ignore


@shared_task(name="massmigration.recover", ignore_result=True)
def recover() -> int:
    """Send what is stuck again. For beat; workers do it by themselves, too."""
    return worker.recover()


@signals.worker_init.connect
def _begin(instance: Any, **kwargs: Any) -> None:
    global this_worker
    this_worker = instance
    is_stopping[0] = False


@signals.worker_ready.connect
def _heal_now_and_then(**kwargs: Any) -> None:
    """Once is not enough: shards of workers that have just been killed are still leased."""
    healer.start()


@signals.worker_shutting_down.connect
def _stop(**kwargs: Any) -> None:
    is_stopping[0] = True
    healer.stop()


@signals.worker_shutdown.connect
def _end(**kwargs: Any) -> None:
    healer.join()
