"""The interface of a backend. A backend only transports jobs; the core does everything else."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, final

from django.core.checks import CheckMessage
from django.db.models import QuerySet

from massmigration.backends.legacy import BackendBase
from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.documents import sharding
from massmigration.jobs import Job
from massmigration.models import MigrationRecord
from massmigration.paging.keyset import Keyset, encode_key
from massmigration.paging.sharding import KeyRange, ShardPlan
from massmigration.states import ACTIVE

__all__ = [
    "AdminAction",
    "BackendBase",
    "BackendHealth",
    "BaseBackend",
    "KeyRange",
    "Keyset",
    "ShardPlan",
    "encode_key",
    "problem_of_actions",
    "redis_problem",
]

BUDGET_SHARE = 0.5
"""The share of a hard time limit that a job's batches may use. The rest is for the last batch to end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdminAction:
    """An action of a backend that operators can perform on its migrations in the admin."""

    name: str
    """An identifier of at most 32 characters without `__`. Also the verb of the action's event."""

    label: str
    """The text in the admin's menu, for example "Pause the queue"."""

    description: str
    """The text on the confirmation page."""

    call: Callable[[Sequence[MigrationRecord], str], str]
    """Called with the records and an actor. Returns a text that describes the result.

    The operator sees the message of an exception that it raises.
    """

    asks: bool = True
    """Whether the admin asks for confirmation first."""

    permission: str = "control"
    """The permission that an operator needs: `run` or `control`."""


MAX_ACTION_NAME = 32


def problem_of_actions(actions: Sequence[AdminAction]) -> str:
    """Return what is wrong with the names of a backend's actions, or an empty string."""
    names = [action.name for action in actions]
    bad = [name for name in names if not name.isidentifier() or "__" in name or len(name) > MAX_ACTION_NAME]
    if bad:
        return f"named {', '.join(map(repr, bad))}; a name is an identifier of {MAX_ACTION_NAME} characters at most"
    twice = sorted({name for name in names if names.count(name) > 1})
    return f"with the same name, {', '.join(map(repr, twice))}; names must be unique" if twice else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendHealth:
    """The state of a queue at one moment."""

    workers: int | None = None
    """The number of workers that are alive, or None if it is unknown."""

    queued: int | None = None
    """The number of jobs in the queue, including jobs of other code, or None if it is unknown."""

    details: Mapping[str, int | str] = dataclasses.field(default_factory=dict)
    """More facts for operators, by label."""

    problem: str = ""
    """A sentence about what an operator should fix, or an empty string."""


def redis_problem(policy: str) -> str:
    """Return what is wrong with the `maxmemory-policy` of a queue's Redis, or an empty string."""
    if policy.startswith("allkeys"):
        return f"With maxmemory-policy {policy}, Redis drops jobs when its memory is full. Set it to noeviction."
    return ""


class Sender(Protocol):
    """The methods of `massmigration.backends.sender.JobSender` that backends use."""

    def enqueue(self, job: Job, *, delay: dt.timedelta | None = None) -> None:
        """Send a job when the surrounding transaction commits."""

    def launch(self, migration: BaseMigration, db_alias: str) -> None:
        """Insert the migration's record and send its first job."""


class BaseBackend(ABC):
    """Base class of backends.

    A process has one instance, made with `MASSMIGRATION_BACKEND_OPTIONS` as keyword arguments. Migrations that have a
    `queue_name` or `backend_params` get instances of their own.
    """

    supports_delay = False
    """Whether the queue can delay a job before delivery."""

    max_delay: dt.timedelta | None = None
    """The longest delay, or None if there is no limit.

    Set it only if workers run recovery beside their jobs: a shard that has to wait longer has no job in the meantime,
    and recovery sends one when the wait is over.
    """

    admin_actions: Sequence[AdminAction] = ()
    """The actions that operators can perform on this queue."""

    setting_prefixes: ClassVar[Sequence[str]] = ()
    """Prefixes of other settings that an instance reads when it is made. Tests that change them get a new instance."""

    _make_sender: ClassVar[Callable[[BaseBackend], Sender]]
    """Set by `handler.connect()`: this module is below the sender."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    @abstractmethod
    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        """Pass `payload` to the queue, which has to deliver it to `worker.perform(payload)` at least once.

        `delay` is None unless `supports_delay` is true.
        """

    def send_all(self, payloads: Sequence[str], finish: str) -> None:
        """Send the payloads of a stage's shards. `finish` may be sent when they are done; nothing depends on it."""
        for payload in payloads:
            self.send(payload, None)

    def send_continuation(self, payload: str, delay: dt.timedelta | None) -> None:
        """Send the continuation of the current job."""
        self.send(payload, delay)

    def first_delay(self) -> dt.timedelta | None:
        """Return the delay of the job that a launch sends, or None."""
        return None

    def stop_requested(self) -> bool:
        """Return whether this worker has been asked to shut down. Called after every batch."""
        return False

    def hard_time_limit(self) -> dt.timedelta | None:
        """Return the time after which the queue terminates a job, or None if it never does."""
        return None

    def split(self, queryset: QuerySet[Any], keyset: Keyset, count: int) -> ShardPlan:
        """Split a stage's queryset into about `count` ranges of its key."""
        return sharding.split(queryset, keyset, count)

    def check(self) -> Iterable[CheckMessage]:
        """Return system-check messages about this backend's configuration."""
        return ()

    def health(self) -> BackendHealth:
        """Return the state of the queue and its workers. May take some seconds; may raise errors of the client."""
        return BackendHealth()

    def capture_sends(self) -> contextlib.AbstractContextManager[list[str]]:
        """Return a context in which messages from this thread's code to the queue are not sent but listed.

        Dry runs use it. `massmigration.backends.capture.SendCapture` makes one from methods of the queue's client.
        """
        return contextlib.nullcontext([])

    def run_simple(self, migration: BaseMigration, db_alias: str) -> None:
        """Launch a `SimpleMigration`. Custom backends may override this."""
        type(self)._make_sender(self).launch(migration, db_alias)

    def run_mapper(self, migration: BaseMigration, db_alias: str) -> None:
        """Launch a `MapperMigration`. Custom backends may override this."""
        type(self)._make_sender(self).launch(migration, db_alias)

    @final
    @property
    def send_again(self) -> AdminAction:
        """The action for `admin_actions` that sends a job for each unfinished shard, even if one was sent before."""
        return AdminAction(
            name="send_again",
            label="Send lost shards again",
            description="Sends a job for every shard that is not done. Jobs that were not lost find nothing to do.",
            call=self._send_again,
        )

    @final
    def job_duration(self) -> dt.timedelta:
        """Return for how long a job may start further batches: `MASSMIGRATION_JOB_DURATION`, or half the hard limit."""
        duration: dt.timedelta = settings.JOB_DURATION
        limit = self.hard_time_limit()
        return duration if limit is None else min(duration, limit * BUDGET_SHARE)

    def _send_again(self, selected: Sequence[MigrationRecord], actor: str) -> str:
        active = [record for record in selected if record.is_managed and record.status in ACTIVE]
        for record in active:
            type(self)._make_sender(self).enqueue(record.job())
        keys = ", ".join(record.key for record in active)
        return f"Sent the remaining jobs of {keys} again." if keys else "None of these migrations is queued or running."
