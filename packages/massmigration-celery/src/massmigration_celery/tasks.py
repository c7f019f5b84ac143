"""The Celery tasks, and signal receivers that start and stop recovery with a worker."""

from __future__ import annotations

import logging
import mmap
from typing import Any

from celery import shared_task, signals
from celery.exceptions import Ignore

from massmigration import worker
from massmigration.backends.recovery import RecoveryThread
from massmigration.exceptions import BadPayload

logger = logging.getLogger(__name__)

CARRIER = "massmigration_celery.CeleryBackend"  # sends back the jobs of migrations that this worker does not know

this_worker: Any = None  # the worker of this process, or of the process that forked it
is_stopping = mmap.mmap(-1, 1)  # shared with the pool's processes: only the main process receives the signal
recovery_thread = RecoveryThread(worker.recover_if_due)


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
    """Run one job."""
    try:
        worker.perform(payload, carrier=CARRIER)
    except BadPayload as error:
        logger.error("Dropped a task that is not a job. %s", error)
    except Exception as error:
        raise self.retry(exc=error, countdown=min(2**self.request.retries, 60)) from error
    if getattr(self.request, "is_replaced", False):
        raise Ignore


@shared_task(name="massmigration.recover", ignore_result=True)
def recover() -> int:
    """Send stuck jobs of all databases again. For Celery beat; workers also do it by themselves."""
    return worker.recover()


@signals.worker_init.connect
def _note_worker(instance: Any, **kwargs: Any) -> None:
    global this_worker
    this_worker = instance
    is_stopping[0] = False


@signals.worker_ready.connect
def _start_recovery(**kwargs: Any) -> None:
    recovery_thread.start()


@signals.worker_shutting_down.connect
def _stop(**kwargs: Any) -> None:
    is_stopping[0] = True
    recovery_thread.stop()


@signals.worker_shutdown.connect
def _join_recovery(**kwargs: Any) -> None:
    recovery_thread.join()
