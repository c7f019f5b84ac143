"""What the executor needs of whoever carries its jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Protocol

from django.db.models import QuerySet

from massmigration.jobs import Job
from massmigration.keyset import Keyset
from massmigration.sharding import Plan


class Transport(Protocol):
    """A backend, as seen from below."""

    supports_delay: bool

    def enqueue(self, job: Job, *, delay: dt.timedelta | None = None) -> None:
        """Send one job."""

    def enqueue_all(self, jobs: Sequence[Job], *, finish: Job) -> None:
        """Send the jobs of a stage's shards. `finish` may follow them; nothing depends on it."""

    def split(self, queryset: QuerySet[Any], keyset: Keyset, count: int) -> Plan:
        """Cut a stage's queryset into about `count` ranges."""

    def stop_requested(self) -> bool:
        """Whether the worker has been asked to shut down."""

    def job_duration(self) -> dt.timedelta:
        """How long a job may go on with further batches."""

    def heal(self, db_alias: str) -> None:
        """Send what is stuck again, at most once a lease."""
