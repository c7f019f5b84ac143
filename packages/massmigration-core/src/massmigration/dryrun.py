"""Tries a migration on a sample of its objects, in a transaction that is rolled back."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import time
from collections.abc import Callable
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import QuerySet

from massmigration import keys
from massmigration.backends import handler
from massmigration.backends.base import BaseBackend
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.definitions.vetting import vet
from massmigration.exceptions import CannotDryRun, MassMigrationError
from massmigration.executor.batch_work import BatchWork
from massmigration.executor.changes import Writes
from massmigration.executor.guards import check_not_spoiled, explained, no_implicit_commit
from massmigration.executor.object_work import ObjectWork
from massmigration.executor.work import OnceWork, Portion
from massmigration.heldback import mail_held_back
from massmigration.keys import Key
from massmigration.keyset import Keyset
from massmigration.loader import store
from massmigration.sharding import cut
from massmigration.transactions import engine_transaction
from massmigration.transient import is_transient

MAX_SIZE = 1000
"""Objects of a sample, at most: they are tried one by one, and their rows stay locked meanwhile."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What the operation did to one object."""

    object_pk: list[Any]
    """The values of its primary key, as JSON; empty for a stage that is done once."""

    changes: dict[str, tuple[Any, Any]]
    """By column's attribute name: the value before, and after."""

    is_gone: bool = False
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a dry run found. Nothing of it is in the database."""

    objects: list[Tried]
    total: int
    is_total_estimated: bool
    duration: dt.timedelta
    """What the operation took for the sample, object by object."""

    mails: int = 0
    """How many mails the operation would have sent."""

    sends: list[str] = dataclasses.field(default_factory=list)
    """What the operation would have sent to the backend's queue, a line each."""

    @property
    def rate(self) -> float | None:
        """Objects a second, one worker. A run is faster: it takes them in batches."""
        seconds = self.duration.total_seconds()
        return len(self.objects) / seconds if seconds and self.objects else None

    @property
    def estimate(self) -> dt.timedelta | None:
        """How long the whole would take at this rate."""
        return dt.timedelta(seconds=self.total / self.rate) if self.rate else None


def dry_run(key: str, db_alias: str, size: int = 10) -> DryRun:
    """Run the first stage of a migration on `size` objects from all over its queryset, and roll everything back.

    What `on_commit` was given is dropped, and mail and what goes to the backend's queue are held back; calls to other
    services are not, so a stage with `atomic = False` is refused with `CannotDryRun`. So is a database that is busy.
    Raise as `api.launch` does for what cannot be run at all.
    """
    if not 1 <= size <= MAX_SIZE:
        raise CannotDryRun(f"A dry run of {size!r} objects is not possible; allowed: 1 to {MAX_SIZE}.")
    migration = store.get(key)
    migration.check_db_alias(db_alias)
    vet(migration, db_alias)
    stage = migration.get_stages()[0]
    if not stage.atomic:
        raise CannotDryRun(
            f"Migration {key!r} has atomic = False: its operation may have effects that no rollback takes back. "
            "It cannot be tried."
        )
    try:
        return _roll_back(migration, stage, db_alias, size)
    except Exception as error:
        if not is_transient(error):
            raise
        raise CannotDryRun(f"The database refused: {error}. Nothing was changed; try again.") from error


def _roll_back(migration: BaseMigration, stage: Stage, db_alias: str, size: int) -> DryRun:
    with (
        mail_held_back() as mails,
        _sends_held_back(migration) as sends,
        engine_transaction(db_alias, idle_limit=stage.idle_limit),
    ):
        found = _try(stage, db_alias, size)
        transaction.set_rollback(True, using=db_alias)
    return dataclasses.replace(found, mails=len(mails), sends=sends)


def _sends_held_back(migration: BaseMigration) -> contextlib.AbstractContextManager[list[str]]:
    backend = handler.backend_of(migration)
    return backend.hold_back() if isinstance(backend, BaseBackend) else contextlib.nullcontext([])


def _try(stage: Stage, db_alias: str, size: int) -> DryRun:
    if isinstance(stage, OnceStage):
        work, whole = OnceWork(stage, db_alias), Portion(last=None, count=1)
        seconds, error = _operate(lambda: work.operate(whole, Writes()), db_alias, _References(db_alias))
        done = Tried(object_pk=[], changes={}, error=error)
        return DryRun(objects=[done], total=1, is_total_estimated=False, duration=dt.timedelta(seconds=seconds))
    assert isinstance(stage, MappedStage)
    queryset = _queryset(stage, db_alias)
    keyset = Keyset.of(queryset.model)
    plan = cut(queryset, keyset, 1)
    sample = _sample(queryset, keyset, size, 0 if plan.is_total_estimated else plan.total or 0)
    objects, seconds = _try_objects(stage, queryset, keyset, sample, db_alias)
    return DryRun(
        objects=objects,
        total=plan.total or 0,
        is_total_estimated=plan.is_total_estimated,
        duration=dt.timedelta(seconds=seconds),
    )


def _queryset(stage: MappedStage, db_alias: str) -> QuerySet[Any]:
    try:
        return stage.rows(db_alias)
    except MassMigrationError:
        raise
    except Exception as error:
        if is_transient(error):
            raise
        raise CannotDryRun(
            f"get_queryset() of migration {stage.name!r} raised {type(error).__name__}: {error}"
        ) from error


def _sample(queryset: QuerySet[Any], keyset: Keyset, size: int, total: int) -> list[Key]:
    """Keys at even distances; the first ones where there are too many rows to walk along."""
    rows = keyset.rows(keyset.page(queryset, None, None))
    if total <= size:
        return list(dict.fromkeys(rows[:size]))
    offsets = [total * index // size for index in range(size)]
    return list(dict.fromkeys(key for offset in offsets for key in rows[offset : offset + 1]))


def _try_objects(
    stage: MappedStage, queryset: QuerySet[Any], keyset: Keyset, sample: list[Key], db_alias: str
) -> tuple[list[Tried], float]:
    work = BatchWork(stage, db_alias) if stage.operation_batch else ObjectWork(stage, db_alias)
    base = queryset.model._base_manager.using(db_alias)
    references = _References(db_alias)
    tried, total = [], 0.0
    for unit in list(work.units(work.portion_of(sample, may_lock=True))):
        mine = base.filter(keyset.exactly(keys.decode(unit.object_pk or []))).values()
        before = mine.first() or {}

        def call(unit=unit) -> None:  # type: ignore[no-untyped-def]
            writes = Writes()
            work.operate(unit, writes)
            writes.flush(db_alias)

        seconds, error = _operate(call, db_alias, references)
        total += seconds
        after = mine.first()
        changes = {name: (value, after[name]) for name, value in before.items() if after and after[name] != value}
        tried.append(Tried(object_pk=unit.object_pk or [], changes=changes, is_gone=after is None, error=error))
    return tried, total


class _References:
    """The foreign keys that are checked at COMMIT, which does not come."""

    def __init__(self, db_alias: str) -> None:
        self._connection = connections[db_alias]
        self._dangling_before = self._dangling()

    def check(self) -> None:
        """Raise `IntegrityError` where COMMIT would."""
        for table, _, referenced, _ in self._dangling() - self._dangling_before:
            raise IntegrityError(f"A row of {table!r} would refer to a row of {referenced!r} that does not exist.")
        if self._connection.vendor != "sqlite" and self._connection.features.can_defer_constraint_checks:
            self._connection.check_constraints()

    def _dangling(self) -> frozenset[tuple[Any, ...]]:
        """Table, row, referenced table and key, on SQLite, whose COMMIT does not mind those of before."""
        if self._connection.vendor != "sqlite":
            return frozenset()
        with self._connection.cursor() as cursor:
            return frozenset(cursor.execute("PRAGMA foreign_key_check").fetchall())


def _operate(call: Callable[[], None], db_alias: str, references: _References) -> tuple[float, str]:
    """Call it in a savepoint. Return the seconds that it took, and what it raised."""
    started = time.monotonic()
    seconds = None
    error = ""
    try:
        with no_implicit_commit(db_alias), transaction.atomic(using=db_alias):
            call()
            check_not_spoiled(db_alias)
            seconds = time.monotonic() - started
            references.check()
    except Exception as raised:
        if is_transient(raised):
            raise
        told = explained(raised)
        error = f"{type(told).__name__}: {told}"
    return time.monotonic() - started if seconds is None else seconds, error
