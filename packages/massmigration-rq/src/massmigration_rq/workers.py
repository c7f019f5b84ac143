"""RQ workers that run recovery when they start and while they are idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import django
import rq
from django.apps import apps

PAUSE = 5
"""Seconds that an idle worker waits for a job before it checks whether a lease has passed."""

if TYPE_CHECKING:
    BaseWorker = rq.Worker
else:
    BaseWorker = object


class RecoveryMixin(BaseWorker):
    """A mixin that adds recovery to a worker class of RQ. Put it first among the base classes.

    The worker's own process needs Django's settings, not only the processes that it starts for jobs.
    """

    def work(self, *args: Any, **kwargs: Any) -> bool:
        if not apps.ready:  # django-rq's command has set Django up already
            django.setup()
        return super().work(*args, **kwargs)

    @property
    def dequeue_timeout(self) -> int:
        return min(PAUSE, super().dequeue_timeout)

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Whether maintenance is due. RQ reads this at the start, after every job, and after each `dequeue_timeout`."""
        return True

    def run_maintenance_tasks(self) -> None:
        if super().should_run_maintenance_tasks:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]  # RQ has no annotation
        from massmigration import worker  # needs Django to be set up

        worker.recover_if_due()


class Worker(RecoveryMixin, rq.Worker):
    """A worker that runs each job in a new process."""


class SimpleWorker(RecoveryMixin, rq.SimpleWorker):
    """A worker that runs jobs in its own process."""
