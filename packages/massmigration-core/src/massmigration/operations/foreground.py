"""Runs one migration to its end in the thread that asks for it."""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
import logging
import time
from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet

from massmigration import executor
from massmigration.backends.base import BaseBackend
from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import DataOperationFailed
from massmigration.jobs import Job, JobKind
from massmigration.keyset import Keyset
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.recorder import attempts, records
from massmigration.sharding import Plan, cut
from massmigration.states import ACTIVE, Status

logger = logging.getLogger(__name__)

NOTABLE = 2.0
"""Seconds of waiting that an operator is told of."""


class NoBackend(BaseBackend):
    """Stands in the records of what only `migrate` runs: others that find a job of it stuck leave it to the next."""

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        logger.info("Only migrate runs %s; dropped it.", Job.loads(payload))


class Foreground:
    """The jobs of one migration on one database, and the one who works at them."""

    supports_delay = True

    def __init__(self, migration: BaseMigration, db_alias: str, *, actor: str) -> None:
        self._migration = migration
        self._db_alias = db_alias
        self._actor = actor
        self._queue: list[tuple[float, int, Job]] = []
        self._order = itertools.count()

    def run(self) -> None:
        """Launch it or go on with it. Return when it is applied; raise `DataOperationFailed` for other ends."""
        with store.registered(self._migration):
            record = self._begin()
            while record is not None and record.status in ACTIVE:
                self._send(record)
                self._work()
                record = self._record()
        if record is None or record.status != Status.APPLIED:
            raise DataOperationFailed(self._told(record))

    def _begin(self) -> MigrationRecord | None:
        key, db_alias = self._migration.key, self._db_alias
        record = self._record()
        if record is None:
            path = f"{NoBackend.__module__}.{NoBackend.__qualname__}"
            records.launch(db_alias, key, backend=path, actor=self._actor)
        elif record.status == Status.PAUSED:
            records.resume(db_alias, key, actor=self._actor)
        elif record.status in attempts.RETRIED:
            attempts.retry(db_alias, key, actor=self._actor)
        return self._record()

    def _record(self) -> MigrationRecord | None:
        return records.get(self._db_alias, self._migration.key)

    def _send(self, record: MigrationRecord) -> None:
        job = Job(
            kind=JobKind.PLAN,
            key=record.key,
            db_alias=self._db_alias,
            attempt_id=str(record.attempt_id),
            stage=record.stage,
        )
        self.enqueue(job)

    def _work(self) -> None:
        while self._queue:
            due, _, job = heapq.heappop(self._queue)
            wait = due - time.monotonic()
            if wait > NOTABLE:
                logger.warning("%s: waiting up to %.0f s for another process to end, or its lease.", job.key, wait)
            time.sleep(max(wait, 0))
            continuation = executor.run(job, self)
            if continuation is not None:
                self.enqueue(continuation.job, delay=continuation.delay)

    def _told(self, record: MigrationRecord | None) -> str:
        key = self._migration.key
        if record is None:
            return f"Migration {key!r} was forgotten by somebody else meanwhile. Run migrate again to begin anew."
        if record.status == Status.FAILED:
            return (
                f"Migration {key!r} failed on database {self._db_alias!r}: {record.last_error}\n"
                "Mend the cause, then run migrate again: it goes on where it stopped."
            )
        return f"Migration {key!r} was {record.status} by somebody else. Run migrate again to go on."

    # As the executor sees whoever carries its jobs.

    def enqueue(self, job: Job, *, delay: dt.timedelta | None = None) -> None:
        due = time.monotonic() + (delay.total_seconds() if delay else 0)
        heapq.heappush(self._queue, (due, next(self._order), job))

    def enqueue_all(self, jobs: Sequence[Job], *, finish: Job) -> None:
        for job in jobs:
            self.enqueue(job)

    def split(self, queryset: QuerySet[Any], keyset: Keyset, count: int) -> Plan:
        return cut(queryset, keyset, 1)

    def stop_requested(self) -> bool:
        return False

    def job_duration(self) -> dt.timedelta:
        duration: dt.timedelta = settings.JOB_DURATION
        return duration

    def heal(self, db_alias: str) -> None:
        """Others' jobs are not `migrate`'s; its own it waits for."""
