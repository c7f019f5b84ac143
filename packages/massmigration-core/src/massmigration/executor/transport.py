"""The protocol by which the executor sends jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Protocol

from django.db.models import QuerySet

from massmigration.jobs import Job
from massmigration.paging.keyset import Keyset
from massmigration.paging.sharding import ShardPlan


class Transport(Protocol):
    """A sender of jobs through a backend."""

    @property
    def supports_delay(self) -> bool:
        """Whether the queue can delay a job."""

    @property
    def max_delay(self) -> dt.timedelta | None:
        """The longest delay of the queue, or None."""

    def enqueue(self, job: Job, *, delay: dt.timedelta | None = None) -> None:
        """Send one job."""

    def enqueue_all(self, jobs: Sequence[Job], *, finish: Job) -> None:
        """Send the jobs of a stage's shards. A backend may send `finish` after them; nothing depends on it."""

    def split(self, queryset: QuerySet[Any], keyset: Keyset, count: int) -> ShardPlan:
        """Cut a stage's queryset into about `count` ranges."""

    def stop_requested(self) -> bool:
        """Return whether the worker has been asked to shut down."""

    def job_duration(self) -> dt.timedelta:
        """Return how long a job may start further batches."""
