"""The sender of migrations' jobs through a backend."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import QuerySet

from massmigration import actors, text
from massmigration.backends.base import BaseBackend
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.validation import validate
from massmigration.executor import throttle
from massmigration.jobs import Delivery, Job, JobKind
from massmigration.paging.keyset import Keyset
from massmigration.paging.sharding import ShardPlan
from massmigration.recorder import events, records
from massmigration.recorder.events import announce
from massmigration.signals import migration_launched

logger = logging.getLogger(__name__)

_failed_sends: ContextVar[list[Exception]] = ContextVar("massmigration_failed_sends")


@contextlib.contextmanager
def collect_failed_sends() -> Iterator[list[Exception]]:
    """Yield a list that receives the exceptions of sends in this block."""
    failed: list[Exception] = []
    token = _failed_sends.set(failed)
    try:
        yield failed
    finally:
        _failed_sends.reset(token)


class JobSender:
    """The sender of jobs through one backend; the executor's `Transport`.

    Jobs are sent when the surrounding transaction commits. A failed send is recorded as an event and repaired by
    recovery; it does not raise, because the change that it follows is already committed.
    """

    def __init__(self, backend: BaseBackend) -> None:
        self.backend = backend

    @property
    def supports_delay(self) -> bool:
        """Whether the queue can delay a job."""
        return self.backend.supports_delay

    @property
    def max_delay(self) -> dt.timedelta | None:
        """The longest delay of the queue, or None."""
        return self.backend.max_delay

    def enqueue(self, job: Job, *, delay: dt.timedelta | None = None) -> None:
        """Send a job when the surrounding transaction commits."""
        transaction.on_commit(partial(self._send, job, delay), using=job.db_alias)

    def enqueue_all(self, jobs: Sequence[Job], *, finish: Job) -> None:
        """Send the jobs of a stage's shards when the surrounding transaction commits."""
        transaction.on_commit(partial(self._send_all, jobs, finish), using=finish.db_alias)

    def continue_with(self, continuation: Delivery) -> None:
        """Send the continuation of the current job."""
        delay = continuation.delay
        if delay and not self.supports_delay:
            # The queue cannot delay the job, so the worker waits.
            throttle.sleep(delay, self.stop_requested)
            delay = None
        self._try(continuation.job, lambda: self.backend.send_continuation(continuation.job.dumps(), delay))

    def launch(self, migration: BaseMigration, db_alias: str) -> None:
        """Insert the migration's record and send its first job.

        Raise `AlreadyLaunched` if the record exists, and `BadMigrationFile` or `BadQuerySet` if the migration cannot
        succeed.
        """
        validate(migration, db_alias)
        delay = self.backend.first_delay()
        backend_class = type(self.backend)
        attempt_id = records.launch(
            db_alias,
            migration.key,
            backend=f"{backend_class.__module__}.{backend_class.__qualname__}",
            actor=actors.current(),
            source_hash=migration.source_hash,
            delay=delay,
        )
        tell = partial(announce, migration_launched, migration.key, db_alias, actor=actors.current())
        transaction.on_commit(tell, using=db_alias)
        job = Job(kind=JobKind.PLAN, key=migration.key, db_alias=db_alias, attempt_id=str(attempt_id))
        self.enqueue(job, delay=delay)

    def split(self, queryset: QuerySet[Any], keyset: Keyset, count: int) -> ShardPlan:
        """Split a stage's queryset into about `count` ranges."""
        return self.backend.split(queryset, keyset, count)

    def stop_requested(self) -> bool:
        """Return whether the worker has been asked to shut down."""
        return self.backend.stop_requested()

    def job_duration(self) -> dt.timedelta:
        """Return for how long a job may start further batches."""
        return self.backend.job_duration()

    def _send(self, job: Job, delay: dt.timedelta | None) -> None:
        self._try(job, lambda: self.backend.send(job.dumps(), delay if self.supports_delay else None))

    def _send_all(self, jobs: Sequence[Job], finish: Job) -> None:
        self._try(finish, lambda: self.backend.send_all([job.dumps() for job in jobs], finish.dumps()))

    def _try(self, job: Job, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:
            told = "Could not send the %s of migration %s. Recovery will send it again."
            logger.error(told, job.what, job.key, exc_info=text.logged(error))
            _failed_sends.get([]).append(error)
            with contextlib.suppress(DatabaseError, InterfaceError):
                events.record_not_sent(job, text.described(error))
                if job.kind is JobKind.PLAN:
                    records.make_due(job.db_alias, job.key, job.attempt_id)
        else:
            if job.kind is JobKind.PLAN:
                with contextlib.suppress(DatabaseError, InterfaceError):
                    events.record_sent(job)
