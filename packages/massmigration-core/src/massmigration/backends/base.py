"""What an adapter implements. Everything else about running a migration is the core's."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, final

from django.core.checks import CheckMessage
from django.db import DatabaseError, InterfaceError, transaction
from django.db.models import QuerySet

from massmigration import actors, executor
from massmigration.backends import healing
from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.vetting import vet
from massmigration.documents import cutting
from massmigration.exceptions import BadBackend
from massmigration.executor import throttle
from massmigration.jobs import Delivery, Job, JobKind
from massmigration.keyset import Keyset
from massmigration.models import MigrationRecord
from massmigration.recorder import events, records
from massmigration.recorder.events import NOT_SENT
from massmigration.sharding import Plan, cut
from massmigration.signals import announce, migration_launched
from massmigration.states import ACTIVE
from massmigration.stores import is_of_documents

logger = logging.getLogger(__name__)

_not_sent: ContextVar[list[Exception]] = ContextVar("massmigration_not_sent")
"""What the sends of the delivery in progress have raised."""

BUDGET_SHARE = 0.5
"""The share of a hard time limit that a job's batches may use; the rest is for the last of them to end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdminAction:
    """Something that a backend lets operators do with its migrations, from the admin."""

    name: str
    """An identifier, of 32 characters at most, without `__`; the verb of the event that tells of it."""

    label: str
    """What the admin's menu says, as in "Look at the queue"."""

    description: str
    """What the page that asks for confirmation says."""

    call: Callable[[Sequence[MigrationRecord], str], str]
    """Does it to the records, for an actor, and returns what has been done; the operator reads what it raises."""

    asks: bool = True
    """Is it confirmed on a page of its own first?"""

    permission: str = "control"
    """Which of `run` and `control` an operator must be allowed."""


MAX_ACTION_NAME = 32


def problem_of_actions(actions: Sequence[AdminAction]) -> str:
    """What is wrong with the names of a backend's actions; empty if nothing is."""
    names = [action.name for action in actions]
    bad = [name for name in names if not name.isidentifier() or "__" in name or len(name) > MAX_ACTION_NAME]
    if bad:
        return f"named {', '.join(map(repr, bad))}; a name is an identifier of {MAX_ACTION_NAME} characters at most"
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"with one name, {', '.join(map(repr, twice))}; only one of them could be chosen" if twice else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendHealth:
    """What a queue says of itself at this moment."""

    workers: int | None = None
    """How many workers are alive; None: that cannot be known."""

    queued: int | None = None
    """How many jobs wait, anyone's; None: that cannot be known."""

    details: Mapping[str, int | str] = dataclasses.field(default_factory=dict)
    """More for people to read, by label."""

    problem: str = ""
    """What an operator should see to, as a sentence; empty: nothing was found."""


class BaseBackend(ABC):
    """Carries jobs. Made once a process, with the setting `MASSMIGRATION_BACKEND_OPTIONS` as keyword arguments."""

    supports_delay = False
    """Can a job be held back before it is delivered?"""

    admin_actions: Sequence[AdminAction] = ()
    """What this queue lets an operator do."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @abstractmethod
    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        """Hand `payload` to the queue, to reach `worker.perform(payload)` at least once.

        `delay` is None unless `supports_delay`.
        """

    def send_all(self, payloads: Sequence[str], finish: str) -> None:
        """Send the payloads of a stage's shards. `finish` may be sent when all are done; nothing depends on it."""
        for payload in payloads:
            self.send(payload, None)

    def send_continuation(self, payload: str, delay: dt.timedelta | None) -> None:
        """Send what goes on with the job being performed."""
        self.send(payload, delay)

    def first_delay(self) -> dt.timedelta | None:
        """How long the job that a launch sends is to be held back; None: not at all."""
        return None

    def stop_requested(self) -> bool:
        """Whether this worker has been asked to shut down. Asked after every batch."""
        return False

    def hard_time_limit(self) -> dt.timedelta | None:
        """When the queue ends a job by force; None: never."""
        return None

    def split(self, queryset: QuerySet[Any], keyset: Keyset, count: int) -> Plan:
        """Cut a stage's queryset into about `count` ranges of its key."""
        return (cutting.cut if is_of_documents(queryset.db) else cut)(queryset, keyset, count)

    def check(self) -> Iterable[CheckMessage]:
        """System-check messages about this backend's configuration."""
        return ()

    def health(self) -> BackendHealth:
        """How the queue and its workers are. May take a second or two, and raise what the queue's client raises."""
        return BackendHealth()

    def hold_back(self) -> contextlib.AbstractContextManager[list[str]]:
        """Within it, what code of this thread sends to the queue is not sent, but listed, a line each."""
        return contextlib.nullcontext([])

    @final
    @property
    def send_again(self) -> AdminAction:
        """An action for `admin_actions`: send what is not done, whatever has become of the jobs sent before."""
        return AdminAction(
            name="send_again",
            label="Send lost shards again",
            description="Sends a job for every shard that is not done. Jobs that were not lost find nothing to do.",
            call=self._send_again,
        )

    @final
    def enqueue(self, job: Job, *, delay: dt.timedelta | None = None) -> None:
        """Send `job` once the surrounding transaction, if any, commits. A send that fails becomes an event."""
        transaction.on_commit(partial(self._send, job, delay), using=job.db_alias)

    @final
    def enqueue_all(self, jobs: Sequence[Job], *, finish: Job) -> None:
        """Send the jobs of a stage's shards once the surrounding transaction, if any, commits."""
        transaction.on_commit(partial(self._send_all, jobs, finish), using=finish.db_alias)

    @final
    def perform(self, payload: str) -> None:
        """Work at a delivered payload, in a worker, and send what goes on with it.

        Raise what a send has raised, for then only this very delivery is left to go on with.
        """
        job = Job.loads(payload)
        self.heal(job.db_alias)
        not_sent: list[Exception] = []
        token = _not_sent.set(not_sent)
        try:
            continuation = executor.run(job, self)
            if continuation is not None:
                self._continue(continuation)
        finally:
            _not_sent.reset(token)
        if not_sent:
            raise not_sent[0]

    @final
    def launch(self, migration: BaseMigration, db_alias: str) -> None:
        """Insert the migration's record and send its first job.

        Raise `AlreadyLaunched` if there is a record, `BadMigrationFile` or `BadQuerySet` if it can never succeed.
        """
        vet(migration, db_alias)
        delay = self.first_delay()
        attempt_id = records.launch(
            db_alias,
            migration.key,
            backend=f"{type(self).__module__}.{type(self).__qualname__}",
            actor=actors.current(),
            source_hash=migration.source_hash,
            delay=delay,
        )
        tell = partial(announce, migration_launched, migration.key, db_alias, actor=actors.current())
        transaction.on_commit(tell, using=db_alias)
        job = Job(kind=JobKind.PLAN, key=migration.key, db_alias=db_alias, attempt_id=str(attempt_id))
        self.enqueue(job, delay=delay)

    def run_simple(self, migration: BaseMigration, db_alias: str) -> None:
        """Launch a `SimpleMigration`. Custom backends may override it."""
        self.launch(migration, db_alias)

    def run_mapper(self, migration: BaseMigration, db_alias: str) -> None:
        """Launch a `MapperMigration`. Custom backends may override it."""
        self.launch(migration, db_alias)

    @final
    def job_duration(self) -> dt.timedelta:
        """How long a job may go on with further batches, within the queue's own limit."""
        duration: dt.timedelta = settings.JOB_DURATION
        limit = self.hard_time_limit()
        return duration if limit is None else min(duration, limit * BUDGET_SHARE)

    @final
    def heal(self, db_alias: str) -> None:
        """Send what is stuck on this database again, at most once a lease in this process."""
        healing.heal_now_and_then(db_alias)

    def _send_again(self, selected: Sequence[MigrationRecord], actor: str) -> str:
        sent = [record for record in selected if record.is_managed and record.status in ACTIVE]
        for record in sent:
            plan = Job(
                kind=JobKind.PLAN,
                key=record.key,
                db_alias=str(record._state.db),
                attempt_id=str(record.attempt_id),
                stage=record.stage,
            )
            self.enqueue(plan)
        keys = ", ".join(record.key for record in sent)
        return f"Sent again what is not done of {keys}." if keys else "None of them is queued or running."

    def _continue(self, continuation: Delivery) -> None:
        delay = continuation.delay
        if delay and not self.supports_delay:
            # Hold the worker instead of the job.
            throttle.sleep(delay, self.stop_requested)
            delay = None
        self._try(continuation.job, lambda: self.send_continuation(continuation.job.dumps(), delay))

    def _send(self, job: Job, delay: dt.timedelta | None) -> None:
        self._try(job, lambda: self.send(job.dumps(), delay if self.supports_delay else None))

    def _send_all(self, jobs: Sequence[Job], finish: Job) -> None:
        self._try(finish, lambda: self.send_all([job.dumps() for job in jobs], finish.dumps()))

    def _try(self, job: Job, send: Callable[[], None]) -> None:
        """A send that fails is an event that healing mends, not an error: what it follows is committed."""
        try:
            send()
        except Exception as error:
            logger.exception("Could not send %s.", job)
            _not_sent.get([]).append(error)
            with contextlib.suppress(DatabaseError, InterfaceError):
                detail = f"{type(error).__name__}: {error}"
                events.add(job.db_alias, job.key, NOT_SENT, attempt_id=job.attempt_id, detail=detail)
                if job.kind is JobKind.PLAN:
                    records.make_due(job.db_alias, job.key, job.attempt_id)


class BackendBase:
    """What custom backends subclass that run migrations by themselves. Made without arguments.

    A migration goes to the method that its `backend_method` names; the two here are those of the core's own kinds.
    They tell the record how it goes by `wrapped_operation` and the `mark_as_` methods of the migration.
    """

    def run_simple(self, migration: Any, db_alias: str) -> None:
        """Have `migration.wrapped_operation(db_alias)` called, which does all else."""
        raise _missing(self, "run_simple", migration)

    def run_mapper(self, migration: Any, db_alias: str) -> None:
        """Have every object of `migration.get_queryset(db_alias)` worked through.

        Call `attempt_uuid = migration.mark_as_started(db_alias)`, then for each object
        `migration.wrapped_operation(obj, attempt_uuid, db_alias)`, and at the end
        `migration.mark_as_finished(db_alias, attempt_uuid)`.
        """
        raise _missing(self, "run_mapper", migration)


def _missing(backend: object, method: str, migration: BaseMigration) -> BadBackend:
    return BadBackend(f"{type(backend).__qualname__} has no {method}(), which migration {migration.key!r} needs.")
