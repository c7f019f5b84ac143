"""Runs of a migration in this thread, whose jobs, statements and clock a test controls."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import datetime as dt
import functools
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from django.core.mail import EmailMessage
from django.db import connections
from django.db.models import Model, QuerySet
from django.test import TestCase, override_settings
from django.utils import timezone

from massmigration import api, record_cache
from massmigration.backends import handler, worker
from massmigration.backends.base import BaseBackend
from massmigration.definitions import callables
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.dialects.times import DatabaseNow
from massmigration.executor import job
from massmigration.jobs import Job
from massmigration.loader import store
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.states import Status

BATCH = 50
"""Rows in a batch of a run, unless the migration sets a size: many batches, so that faults fall between them."""

SHARDS = 3
LONG_AGO = -dt.timedelta(days=1)
MANY_JOBS = 20_000
"""The number of jobs after which a run is given up."""

_WRITE = re.compile(r"\s*(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+[\"`]?([\w.]+)", re.IGNORECASE)
_CLEANUP = re.compile(r"\s*(ROLLBACK|RELEASE|SAVEPOINT)\b", re.IGNORECASE)


class Killed(BaseException):
    """The process of the worker has ended at this statement."""


class Queue(BaseBackend):
    """A queue in this thread."""

    supports_delay = True

    def __init__(self) -> None:
        super().__init__()
        self.payloads: deque[str] = deque()
        self.shards = SHARDS

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        self.payloads.append(payload)

    def split(self, queryset: QuerySet[Any], keyset: Any, count: int) -> Any:
        with mock.patch.object(sharding, "MIN_SHARD_SIZE", 1):
            return sharding.split(queryset, keyset, self.shards)


@dataclasses.dataclass(kw_only=True)
class Call:
    """A call of the migration's operation that is running."""

    stage: Stage
    target: Any
    """The object or the queryset; None for a stage that is done once."""

    statements: int = 0
    """The number of statements that the operation has executed."""

    locked: set[type[Model]] = dataclasses.field(default_factory=set)
    """The models whose rows the operation has locked itself."""

    is_poisoned: bool = False
    """Whether the call is for a row that a test has made bad."""

    has_raised: bool = False
    """Whether something was raised within the operation on behalf of a test."""

    @property
    def model(self) -> type[Model] | None:
        """The model of the stage's queryset."""
        if isinstance(self.target, QuerySet):
            return self.target.model
        return type(self.target) if isinstance(self.target, Model) else None

    @property
    def holds_rows(self) -> bool:
        """Whether a database with row locks keeps others from the rows of the batch."""
        stage = self.stage
        return isinstance(stage, MappedStage) and stage.atomic and stage.lock_rows and stage.operation is not None

    def pks(self) -> list[Any]:
        """Return the primary keys of the rows that the call is for."""
        if isinstance(self.target, QuerySet):
            return list(self.target.order_by("pk").values_list("pk", flat=True))
        return [self.target.pk] if isinstance(self.target, Model) else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """Something outside the database that an operation has done."""

    what: str
    is_in_transaction: bool


class Faults:
    """The faults of a run. This class has none; subclasses override what they need."""

    def before_statement(self, run: Run, sql: str, params: Any) -> None:
        """Act before a statement on the migrated database, of the operation or of the engine."""

    def before_call(self, run: Run, call: Call) -> None:
        """Act before a call of the operation."""

    def after_call(self, run: Run, call: Call) -> None:
        """Act after a call of the operation that has not raised."""

    def deliver(self, run: Run, payload: str) -> None:
        """Deliver a job."""
        run.perform(payload)

    def between_jobs(self, run: Run) -> None:
        """Act after a job."""


class Run:
    """One run of a migration, from the launch to its end."""

    def __init__(self, cls: type[BaseMigration], key: str, db_alias: str, *, batch: int = BATCH) -> None:
        self.cls = cls
        self.key = key
        self.db_alias = db_alias
        self.batch = batch
        self.faults = Faults()
        self.queue = Queue()
        self.call: Call | None = None
        """The call that is running, or None."""

        self.is_dead = False
        self.kills = 0
        self.statements = 0
        self.calls = 0
        self.effects: list[Effect] = []
        self.written: set[str] = set()
        """The names of the tables that the run has written."""

        self.thread = threading.get_ident()
        self._is_bypassed = True
        """Whether statements are the test's own, which no fault meets: all outside of jobs."""

        self._memory: list[dict[str, Any]] = []

    @property
    def record(self) -> MigrationRecord:
        return MigrationRecord.objects.using(self.db_alias).get(key=self.key)

    @property
    def status(self) -> str:
        return str(self.record.status)

    def go(self, faults: Faults, *, clock: dt.datetime | None = None) -> Run:
        """Launch the migration, and run its jobs and what recovery sends until it has ended."""
        self.faults = faults
        with self.prepared(clock):
            self.forget()
            self.act(api.launch)
            self.work()
        return self

    def again(self, action: Callable[..., None], faults: Faults | None = None) -> Run:
        """Perform an action, such as a retry or a restart, and run to the end."""
        self.faults = faults or Faults()
        with self.prepared():
            self.act(action)
            self.work()
        return self

    def work(self) -> None:
        """Deliver jobs until the migration has ended. If none is left, run recovery."""
        for _ in range(MANY_JOBS):
            if self.queue.payloads:
                self.faults.deliver(self, self.queue.payloads.popleft())
                self.faults.between_jobs(self)
                continue
            status = self.status
            if status == Status.WAITING:
                self.act(api.proceed)
            elif status not in (Status.QUEUED, Status.RUNNING):
                return
            else:
                self.recover()
        raise AssertionError(f"Migration {self.key} has not ended after {MANY_JOBS} jobs.")

    def perform(self, payload: str) -> None:
        """Run a job as a worker does. If a fault kills the worker, the next job runs in a new one."""
        try:
            with self._committing():
                self._is_bypassed = False
                worker.perform_with(payload, self.queue)
        except Killed:
            self.restart_worker()
        finally:
            self._is_bypassed = True

    def restart_worker(self) -> None:
        """Begin with a new process: what the migration's code has kept in memory is gone."""
        self.is_dead = False
        self.call = None
        self._fresh()

    def recover(self) -> None:
        """Let the leases of dead workers expire, and send what is stuck."""
        past = DatabaseNow(LONG_AGO)
        ShardRecord.objects.using(self.db_alias).update(lease_until=past, next_send_at=past, throttled_until=None)
        MigrationRecord.objects.using(self.db_alias).update(next_send_at=past)
        with self._committing():
            worker.recover(self.db_alias)

    @contextlib.contextmanager
    def bypassed(self) -> Iterator[None]:
        """Execute statements of the test itself, which no fault meets."""
        before, self._is_bypassed = self._is_bypassed, True
        try:
            yield
        finally:
            self._is_bypassed = before

    def _committing(self) -> Any:
        # In a TestCase, jobs wait for a commit and are sent at the end of the block. Elsewhere, at the commit.
        return TestCase.captureOnCommitCallbacks(using=self.db_alias, execute=True)

    def act(self, action: Callable[..., None], *, is_exposed: bool = False) -> None:
        """Perform an action of an operator. `is_exposed`: faults may meet its statements."""
        self._is_bypassed = not is_exposed
        try:
            with self._committing():
                action(self.key, self.db_alias, actor="code:test")
        finally:
            self._is_bypassed = True

    def forget(self) -> None:
        """Delete the records of earlier runs."""
        FailedObject.objects.using(self.db_alias).filter(record_id=self.key).delete()
        ShardRecord.objects.using(self.db_alias).filter(record_id=self.key).delete()
        MigrationRecord.objects.using(self.db_alias).filter(key=self.key).delete()
        Event.objects.using(self.db_alias).filter(key=self.key).delete()
        record_cache.forget(self.key, self.db_alias)

    @contextlib.contextmanager
    def prepared(self, clock: dt.datetime | None = None) -> Iterator[None]:
        """Register the migration, and put the test between it and its jobs, statements and clock."""
        sizes = {f"MASSMIGRATION_{name}": self.batch for name in ("BATCH_SIZE", "MAX_BATCH_SIZE", "MAX_SET_SIZE")}
        with contextlib.ExitStack() as stack:
            stack.enter_context(override_settings(**sizes, MASSMIGRATION_JOB_DURATION=dt.timedelta(0)))
            stack.enter_context(mock.patch.object(job, "throttle_of", return_value=None))
            is_from_signal = callables.is_from_signal
            stack.enter_context(
                mock.patch.object(
                    callables, "is_from_signal", lambda error: isinstance(error, Killed) or is_from_signal(error)
                )
            )
            stack.enter_context(handler.overriding(self.key, self.queue))
            stack.enter_context(store.registered())  # removes what `_fresh` registers
            stack.enter_context(_memory_kept(self.cls))
            stack.enter_context(connections[self.db_alias].execute_wrapper(self._statement))
            stack.enter_context(_connection_kept(self.db_alias))
            stack.enter_context(_locks_noted(self))
            stack.enter_context(_effects_noted(self))
            if clock is not None:
                stack.enter_context(clock_at(clock, self.cls))
            self._memory = _memory_of(self.cls)
            self._fresh()
            yield

    def _fresh(self) -> None:
        _set_memory(self.cls, self._memory)
        app_label, _, name = self.key.partition(":")
        migration = self.cls(app_label, name)
        migration.dependencies = ()
        get_stages = migration.get_stages
        migration.get_stages = lambda: [self._watched(stage) for stage in get_stages()]  # type: ignore[method-assign]
        store.by_key[self.key] = migration

    def _watched(self, stage: Stage) -> Stage:
        """Return the stage with operations that report their calls."""
        names = ("operation", "operation_batch") if isinstance(stage, MappedStage) else ("operation",)
        if not isinstance(stage, (MappedStage, OnceStage)):
            return stage
        wrapped = {name: self._reporting(stage, getattr(stage, name)) for name in names if getattr(stage, name)}
        return dataclasses.replace(stage, **wrapped)  # type: ignore[arg-type]

    def _reporting(self, stage: Stage, operation: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(operation)
        def call(*arguments: Any) -> Any:
            target = arguments[0] if isinstance(stage, MappedStage) else None
            found = Call(stage=stage, target=target)
            with self.bypassed():
                self.faults.before_call(self, found)
            self.calls += 1
            self.call = found
            try:
                answer = operation(*arguments)
            finally:
                self.call = None
            with self.bypassed():
                self.faults.after_call(self, found)
            return answer

        return call

    def _statement(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        text = sql if isinstance(sql, str) else str(sql)
        if self.is_dead and not _CLEANUP.match(text):
            raise Killed
        if self._is_bypassed:
            return execute(sql, params, many, context)
        self.statements += 1
        if self.call is not None:
            self.call.statements += 1
        if found := _WRITE.match(text):
            self.written.add(found[2])
        if not _CLEANUP.match(text):
            self.faults.before_statement(self, text, params)
        return execute(sql, params, many, context)

    def note_effect(self, what: str) -> None:
        """Note that the operation has done something outside the migrated database."""
        stage = self.call.stage if self.call else None
        self.effects.append(Effect(what=what, is_in_transaction=bool(stage and stage.atomic)))

    def die(self) -> None:
        """Kill the worker: no statement of it is executed any more."""
        self.is_dead = True
        self.kills += 1
        raise Killed


def is_write(sql: str) -> str:
    """Return the name of the table that a statement writes, or an empty string."""
    found = _WRITE.match(sql)
    return found[2] if found else ""


def kind_of(payload: str) -> str:
    """Return the kind of a job."""
    return str(Job.loads(payload).kind.value)


@contextlib.contextmanager
def _connection_kept(db_alias: str) -> Iterator[None]:
    """Keep the engine from closing the connection after a kill within the transaction of a `TestCase`."""
    connection = connections[db_alias]
    close = connection.close_if_unusable_or_obsolete

    def closed() -> None:
        if not connection.in_atomic_block:
            close()

    with mock.patch.object(connection, "close_if_unusable_or_obsolete", closed):
        yield


@contextlib.contextmanager
def _locks_noted(run: Run) -> Iterator[None]:
    """Note which models' rows an operation locks itself, also on a database without row locks."""
    select_for_update = QuerySet.select_for_update

    def noted(queryset: QuerySet[Any], *args: Any, **kwargs: Any) -> QuerySet[Any]:
        if run.call is not None:
            run.call.locked.add(queryset.model)
        return select_for_update(queryset, *args, **kwargs)

    with mock.patch.object(QuerySet, "select_for_update", noted):
        yield


_listening: list[Run] = []
_is_hooked = False
_FOREIGN = {
    "socket.connect": "connected to a network address",
    "subprocess.Popen": "started a process",
    "os.remove": "deleted a file",
    "os.rename": "renamed a file",
    "shutil.copyfile": "copied a file",
    "http.client.send": "sent an HTTP request",
    "smtplib.send": "sent mail",
}
_WRITING = 0o3
"""The flags of `open` for writing: O_WRONLY and O_RDWR."""


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _listening or event not in ("open", *_FOREIGN):
        return
    run = _listening[-1]
    if run.call is None or run.thread != threading.get_ident():
        return
    if event == "open":
        path, _, flags = args
        if isinstance(path, int) or not (isinstance(flags, int) and flags & _WRITING):
            return
        if "__pycache__" in str(path) or str(path).startswith("/dev/"):
            return
        run.note_effect(f"wrote the file {path}")
    else:
        run.note_effect(_FOREIGN[event])


@contextlib.contextmanager
def _effects_noted(run: Run) -> Iterator[None]:
    """Note what operations do outside the migrated database."""
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(_audit)  # it stays until the process ends
        _is_hooked = True
    send = EmailMessage.send

    def sent(message: EmailMessage, *args: Any, **kwargs: Any) -> Any:
        if run.call is not None:
            run.note_effect("sent mail")
        return send(message, *args, **kwargs)

    def other(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if run.call is not None and (table := is_write(str(sql))):
            run.note_effect(f"wrote table {table} on another database")
        return execute(sql, params, many, context)

    _listening.append(run)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(EmailMessage, "send", sent))
            for connection in connections.all(initialized_only=True):
                if connection.alias != run.db_alias:
                    stack.enter_context(connection.execute_wrapper(other))
            yield
    finally:
        _listening.remove(run)


_PLAIN = (int, float, str, bytes, bool, type(None), list, dict, set, tuple)


def _spaces(cls: type[BaseMigration]) -> list[Any]:
    """Return the classes and the module in which the migration's code may keep something between calls."""
    own = [part for part in cls.__mro__ if not part.__module__.startswith(("massmigration", "django", "builtins"))]
    modules = {part.__module__ for part in own if ".massmigrations." in f".{part.__module__}."}
    return [*own, *(sys.modules[name] for name in sorted(modules) if name in sys.modules)]


def _memory_of(cls: type[BaseMigration]) -> list[dict[str, Any]]:
    found = []
    for space in _spaces(cls):
        plain = {name: value for name, value in vars(space).items() if not name.startswith("__")}
        found.append({name: copy.deepcopy(value) for name, value in plain.items() if type(value) in _PLAIN})
    return found


def _set_memory(cls: type[BaseMigration], memory: list[dict[str, Any]]) -> None:
    for space, values in zip(_spaces(cls), memory, strict=True):
        for name, value in values.items():
            setattr(space, name, copy.deepcopy(value))


@contextlib.contextmanager
def _memory_kept(cls: type[BaseMigration]) -> Iterator[None]:
    before = _memory_of(cls)
    try:
        yield
    finally:
        _set_memory(cls, before)


@contextlib.contextmanager
def clock_at(now: dt.datetime, cls: type[BaseMigration]) -> Iterator[None]:
    """Stop the clock that the migration's module reads, at an aware time."""
    date_class, datetime_class = _stopped(now)
    shims: dict[int, Any] = {
        id(dt.datetime): datetime_class,
        id(dt.date): date_class,
        id(dt): _shim(dt, datetime=datetime_class, date=date_class),
        id(time): _shim(time, time=now.timestamp, time_ns=lambda: int(now.timestamp() * 10**9)),
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(timezone, "now", return_value=now))
        for name in {part.__module__ for part in cls.__mro__ if part.__module__ in sys.modules}:
            if name.startswith(("massmigration.", "django.", "builtins")):
                continue
            space = vars(sys.modules[name])
            found = {key: shims[id(value)] for key, value in space.items() if id(value) in shims}
            found |= {key: (lambda: now) for key, value in space.items() if value is _REAL_NOW}
            stack.enter_context(mock.patch.dict(space, found))
        yield


_REAL_NOW = timezone.now


def _stopped(now: dt.datetime) -> tuple[type, type]:
    class StoppedDate(dt.date):
        @classmethod
        def today(cls) -> dt.date:  # type: ignore[override]
            return now.date()

    class StoppedDatetime(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> dt.datetime:  # type: ignore[override]
            return now.astimezone(tz) if tz else now.replace(tzinfo=None)

        @classmethod
        def today(cls) -> dt.datetime:  # type: ignore[override]
            return now.replace(tzinfo=None)

        @classmethod
        def utcnow(cls) -> dt.datetime:  # type: ignore[override]
            return now.astimezone(dt.timezone.utc).replace(tzinfo=None)

    return StoppedDate, StoppedDatetime


def _shim(module: ModuleType, **names: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(module), **names})
