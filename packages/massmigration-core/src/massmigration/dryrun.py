"""Dry runs of a migration on a sample of its objects, in a transaction that is rolled back."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction
from django.db.models import QuerySet

from massmigration import text
from massmigration.backends import handler
from massmigration.backends.base import BaseBackend
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, Stage, without_waits
from massmigration.definitions.validation import validate
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.errors import is_transient, with_advice
from massmigration.documents import sharding
from massmigration.exceptions import CannotDryRun, MassMigrationError
from massmigration.executor.errors import check_not_spoiled, explained
from massmigration.executor.objects import PendingUpdates
from massmigration.executor.outcomes import Batch
from massmigration.executor.processors import ObjectProcessor, SetProcessor, processor_for
from massmigration.executor.statements import Statements, no_implicit_commit, watched
from massmigration.loader import store
from massmigration.paging.keyset import Key, Keyset, decode_key
from massmigration.paging.querysets import all_rows

MAX_SIZE = 1000
"""The maximum number of objects. They are processed one by one, and their rows stay locked until the end."""

_captured: ContextVar[list[Any] | None] = ContextVar("massmigration_captured_mail", default=None)
_lock = threading.Lock()
_originals: list[tuple[Any, str, Any]] = []
_captures = 0


class _CapturingBackend(BaseEmailBackend):
    def send_messages(self, email_messages: Any) -> int:
        captured = _captured.get()
        messages = list(email_messages)
        if captured is not None:
            captured += messages
        return len(messages)


@contextlib.contextmanager
def captured_mail() -> Iterator[list[Any]]:
    """Capture the mail that this thread sends through Django, instead of sending it."""
    captured: list[Any] = []
    _replace()
    token = _captured.set(captured)
    try:
        yield captured
    finally:
        _captured.reset(token)
        _restore()


def _replace() -> None:
    """Replace the functions through which all mail gets its connection. Other threads still get real connections.

    Replacing `import_string`, with which `get_connection` finds the backend's class, also covers code that has already
    imported `get_connection`.
    """
    global _captures
    with _lock:
        _captures += 1
        if _captures > 1:
            return
        _replace_one(mail, "get_connection", _capturing_backend)
        _replace_one(mail, "import_string", lambda: _capturing_backend)
        if handler := getattr(mail, "MailersHandler", None):  # since Django 6.1
            _replace_one(handler, "create_connection", _capturing_backend)


def _restore() -> None:
    """Restore the functions when the last capture ends."""
    global _captures
    with _lock:
        _captures -= 1
        while not _captures and _originals:
            setattr(*_originals.pop())


def _replace_one(owner: Any, name: str, substitute: Callable[[], Any]) -> None:
    original = getattr(owner, name)

    def replacement(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options) if _captured.get() is None else substitute()

    _originals.append((owner, name, original))
    setattr(owner, name, replacement)


def _capturing_backend(*arguments: Any, **options: Any) -> _CapturingBackend:
    """Return the capturing backend, whatever the arguments of the real one."""
    return _CapturingBackend()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectResult:
    """The effect of the operation on one object."""

    object_pk: list[Any]
    """The values of the primary key, as JSON; empty for a stage that is done once."""

    changes: dict[str, tuple[Any, Any]]
    """The value before and after, by the attribute name of the field."""

    is_gone: bool = False
    """Whether the operation deleted the object."""

    error: str = ""
    """The class and message of the exception that the operation raised."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The results of a dry run, which saves nothing."""

    objects: list[ObjectResult]
    total: int
    is_total_estimated: bool
    duration: dt.timedelta
    """The total time of the operation, object by object."""

    mails: int = 0
    """The number of captured mails."""

    unwritten: list[str] = dataclasses.field(default_factory=list)
    """Fields that the operation assigned but did not save, and that are not in `update_fields`."""

    has_changed_nothing: bool = False
    """Whether no object was changed and nothing else was written, although nothing failed."""

    sends: list[str] = dataclasses.field(default_factory=list)
    """The captured jobs that the operation sent to the backend's queue, one line each."""

    @property
    def rate(self) -> float | None:
        """Objects per second, one by one. A run is faster, because it processes batches."""
        seconds = self.duration.total_seconds()
        return len(self.objects) / seconds if seconds and self.objects else None

    @property
    def estimate(self) -> dt.timedelta | None:
        """The time for all objects at this rate."""
        return dt.timedelta(seconds=self.total / self.rate) if self.rate else None


def dry_run(key: str, db_alias: str, size: int = 10) -> DryRun:
    """Run the first stage of a migration that does not wait on `size` objects spread over its queryset, and roll back.

    `on_commit` callbacks are not called, and mail and jobs for the backend's queue are captured. Calls to other
    services cannot be undone, so raise `CannotDryRun` for a stage with `atomic = False`, and if the database is busy.
    Raise what `api.launch` raises for a migration that cannot run at all.
    """
    if not 1 <= size <= MAX_SIZE:
        raise CannotDryRun(f"A dry run takes 1 to {MAX_SIZE} objects, not {size!r}.")
    migration = store.get(key)
    migration.check_db_alias(db_alias)
    validate(migration, db_alias)
    stage = next(iter(without_waits(migration.get_stages())), None)
    if stage is None:
        raise CannotDryRun(f"Migration {key!r} has no stage that does anything.")
    if not stage.atomic:
        raise CannotDryRun(
            f"Migration {key!r} has atomic = False, so its operation may have effects that a rollback does not undo. "
            "A dry run is not possible."
        )
    try:
        return _roll_back(migration, stage, db_alias, size)
    except Exception as error:
        if not is_transient(error):
            raise
        raise CannotDryRun(
            f"The database raised an error: {text.safe(error)}. Nothing was changed. Try again."
        ) from error


def _roll_back(migration: BaseMigration, stage: Stage, db_alias: str, size: int) -> DryRun:
    with (
        captured_mail() as mails,
        _captured_sends(migration) as sends,
        engine_transaction(db_alias, idle_limit=stage.idle_limit),
    ):
        found = _run_sample(stage, db_alias, size)
        transaction.set_rollback(True, using=db_alias)
    return dataclasses.replace(found, mails=len(mails), sends=sends)


def _captured_sends(migration: BaseMigration) -> contextlib.AbstractContextManager[list[str]]:
    backend = handler.backend_of(migration)
    return backend.capture_sends() if isinstance(backend, BaseBackend) else contextlib.nullcontext([])


def _run_sample(stage: Stage, db_alias: str, size: int) -> DryRun:
    if not isinstance(stage, MappedStage):
        work, whole = processor_for(stage, db_alias), Batch(last=None, count=1)
        dangling = dialect_of(db_alias).dangling_references()
        seconds, error = _operate(lambda: work.process(whole, PendingUpdates()), db_alias, dangling)
        done = ObjectResult(object_pk=[], changes={}, error=error)
        return DryRun(objects=[done], total=1, is_total_estimated=False, duration=dt.timedelta(seconds=seconds))
    queryset = _queryset(stage, db_alias)
    keyset = Keyset.of(queryset.model)
    plan = sharding.split(queryset, keyset, 1)
    sample = _sample(queryset, keyset, size, 0 if plan.is_total_estimated else plan.total or 0)
    found = _run_objects(stage, queryset, keyset, sample, db_alias)
    return dataclasses.replace(found, total=plan.total or 0, is_total_estimated=plan.is_total_estimated)


def _queryset(stage: MappedStage, db_alias: str) -> QuerySet[Any]:
    try:
        return stage.rows(db_alias)
    except MassMigrationError:
        raise
    except Exception as error:
        if is_transient(error):
            raise
        cause = text.described(with_advice(error))
        raise CannotDryRun(f"get_queryset() of migration {stage.name!r} raised {cause}") from error


def _sample(queryset: QuerySet[Any], keyset: Keyset, size: int, total: int) -> list[Key]:
    """Return keys at even distances, or the first keys if counting the rows is too slow."""
    rows = keyset.rows(keyset.page(queryset, None, None))
    if total <= size:
        return list(dict.fromkeys(rows[:size]))
    offsets = [total * index // size for index in range(size)]
    return list(dict.fromkeys(key for offset in offsets for key in rows[offset : offset + 1]))


def _run_objects(
    stage: MappedStage, queryset: QuerySet[Any], keyset: Keyset, sample: list[Key], db_alias: str
) -> DryRun:
    work = SetProcessor(stage, db_alias) if stage.operation_batch else ObjectProcessor(stage, db_alias)
    base = all_rows(queryset.model, db_alias)
    dangling = dialect_of(db_alias).dangling_references()
    results, total, other_writes = [], 0.0, 0
    unwritten: dict[str, None] = {}
    for unit in list(work.split_into_objects(work.batch_of_keys(sample, may_lock=True))):
        mine = base.filter(keyset.exactly(decode_key(unit.object_pk or []))).values()
        before = mine.first() or {}
        statements = Statements()
        assigned = _Assigned(stage, unit)

        def call(unit=unit, statements=statements) -> None:  # type: ignore[no-untyped-def]
            updates = PendingUpdates()
            with watched(db_alias, statements):
                work.process(unit, updates)
            updates.write(db_alias, are_held=work.holds_rows, may_delete=statements.may_delete)

        seconds, error = _operate(call, db_alias, dangling)
        total += seconds
        other_writes += statements.writes
        after = mine.first()
        unwritten |= dict.fromkeys(assigned.names(before, after or before))
        changes = {name: (value, after[name]) for name, value in before.items() if after and after[name] != value}
        results.append(
            ObjectResult(object_pk=unit.object_pk or [], changes=changes, is_gone=after is None, error=error)
        )
    is_idle = not any(each.changes or each.is_gone or each.error for each in results)
    return DryRun(
        objects=results,
        total=0,
        is_total_estimated=False,
        duration=dt.timedelta(seconds=total),
        unwritten=list(unwritten),
        has_changed_nothing=bool(results) and is_idle and not other_writes,
    )


class _Assigned:
    """A detector of fields that an operation assigns but nothing writes, for a stage with `update_fields`."""

    def __init__(self, stage: MappedStage, unit: Batch) -> None:
        self._obj: Any = unit.objects[0] if stage.update_fields is not None and unit.objects else None
        self._before = dict(vars(self._obj)) if self._obj is not None else {}
        self._declared = set(stage.update_fields or ())

    def names(self, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        """Return the names of the fields. `before` and `after` are the row in the database."""
        if self._obj is None:
            return []
        fields = [field for field in self._obj._meta.concrete_fields if not field.primary_key]
        undeclared = [field for field in fields if not self._declared & {field.name, field.attname}]
        return [field.name for field in undeclared if self._is_assigned(field.attname, before, after)]

    def _is_assigned(self, name: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
        if name not in vars(self._obj) or name not in before:
            return False
        value = vars(self._obj)[name]
        is_same = value is self._before.get(name) and not isinstance(value, (dict, list, set))
        return not is_same and value != before[name] and value != after[name]


def _operate(call: Callable[[], object], db_alias: str, dangling: frozenset[tuple[Any, ...]]) -> tuple[float, str]:
    """Call the operation in a savepoint. Return the seconds it took and its error."""
    started = time.monotonic()
    seconds = None
    error = ""
    try:
        with no_implicit_commit(db_alias), transaction.atomic(using=db_alias):
            call()
            check_not_spoiled(db_alias)
            seconds = time.monotonic() - started
            dialect_of(db_alias).check_references(dangling)
    except Exception as raised:
        if is_transient(raised):
            raise
        cause = explained(raised)
        error = f"{type(cause).__name__}: {cause}"
    return time.monotonic() - started if seconds is None else seconds, error
