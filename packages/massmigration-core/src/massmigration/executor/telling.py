"""Tells others how a job gets on."""

from __future__ import annotations

import time

from massmigration.jobs import Job
from massmigration.signals import announce, migration_progressed

INTERVAL = 1.0
"""Seconds between two signals of one job, at least."""


class ProgressTeller:
    """Adds up what a job's batches processed, and tells it now and then."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()
        self._processed = 0

    def tell(self, job: Job, processed: int) -> None:
        """Take a batch of `processed` objects into account."""
        self._processed += processed
        now = time.monotonic()
        if now - self._told_at >= INTERVAL:
            announce(migration_progressed, job.key, job.db_alias, processed=self._processed)
            self._told_at, self._processed = now, 0
