"""What one batch does: fetch a portion of a shard, and run the operation on it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from django.db.models import Model, QuerySet

from massmigration import keys
from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.executor.changes import Changes, Writes
from massmigration.keyset import Keyset
from massmigration.querysets import can_lock_directly, lock, prepare
from massmigration.recorder.shards import Claim


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """What one batch holds."""

    last: list[Any] | None
    """Where the cursor stands when it is done."""

    count: int
    is_last: bool = False
    """Does nothing of the shard remain after it?"""

    skipped: int = 0
    """Rows that were seen but vanished before they were locked."""

    objects: Sequence[Model] = ()
    queryset: QuerySet[Any] | None = None


class Work(ABC):
    """A stage's operation, on one database."""

    @abstractmethod
    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        """The next `limit` rows of the shard."""

    @abstractmethod
    def operate(self, portion: Portion, writes: Writes) -> None:
        """Run the operation. What the engine is to write for it goes to `writes`."""

    @abstractmethod
    def units(self, portion: Portion) -> Iterator[Portion]:
        """The portion object by object, to find the one that raises."""


def work_of(stage: Stage, db_alias: str) -> Work:
    """How to work at a stage."""
    if isinstance(stage, OnceStage):
        return OnceWork(stage, db_alias)
    if not isinstance(stage, MappedStage):
        raise TypeError(f"{stage!r} is no kind of stage that the executor knows.")
    return BatchWork(stage, db_alias) if stage.operation_batch else ObjectWork(stage, db_alias)


class OnceWork(Work):
    """A stage that is done by one call."""

    def __init__(self, stage: OnceStage, db_alias: str) -> None:
        self._stage = stage
        self._db_alias = db_alias

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        return Portion(last=None, count=1, is_last=True)

    def operate(self, portion: Portion, writes: Writes) -> None:
        self._stage.operation(self._db_alias)

    def units(self, portion: Portion) -> Iterator[Portion]:
        yield portion


class _MappedWork(Work):
    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        self._stage = stage
        self._db_alias = db_alias
        self._queryset = prepare(stage.get_queryset(db_alias), db_alias, name=stage.name, may_leave=not stage.atomic)
        self._keyset = Keyset.of(self._queryset.model)

    def _page(self, after: list[Any] | None, upper: list[Any] | None) -> QuerySet[Any]:
        return self._keyset.page(self._queryset, after, upper)


class BatchWork(_MappedWork):
    """`operation_batch`, given each batch as a queryset."""

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        found = list(self._keyset.rows(self._page(claim.after, claim.upper))[limit - 1 : limit])
        last = keys.encode(found[0]) if found else claim.upper
        queryset = self._page(claim.after, last).order_by()
        count = limit if found else queryset.count()
        return Portion(last=last, count=count, is_last=not found, queryset=queryset)

    def operate(self, portion: Portion, writes: Writes) -> None:
        assert self._stage.operation_batch is not None
        assert portion.queryset is not None
        if portion.count:
            self._stage.operation_batch(portion.queryset, self._db_alias)

    def units(self, portion: Portion) -> Iterator[Portion]:
        assert portion.queryset is not None
        for key in list(self._keyset.rows(portion.queryset.order_by(*self._keyset.fields))):
            queryset = self._queryset.filter(self._keyset.exactly(key))
            yield Portion(last=keys.encode(key), count=1, queryset=queryset)


class ObjectWork(_MappedWork):
    """`operation`, given each object; with `update_fields` the engine writes what it changed."""

    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        super().__init__(stage, db_alias)
        fields = stage.update_fields
        self._changes = None if fields is None else Changes(self._queryset.model, fields, name=stage.name)

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        page = self._page(claim.after, claim.upper)
        if not (may_lock and self._stage.lock_rows):
            return self._portion(claim, list(page[:limit]), limit)
        if can_lock_directly(page):
            return self._portion(claim, list(lock(page)[:limit]), limit)
        return self._fetch_by_keys(claim, page, limit)

    def _fetch_by_keys(self, claim: Claim, page: QuerySet[Any], limit: int) -> Portion:
        """Where the queryset itself cannot be locked: page its keys, lock the base rows, read through it again."""
        found = list(self._keyset.rows(page)[:limit])
        if not found:
            return self._portion(claim, [], limit)
        among = self._keyset.among(found)
        base = self._queryset.model._base_manager.using(self._db_alias).filter(among)
        list(lock(self._keyset.rows(base.order_by(*self._keyset.fields))))
        objects = list(self._queryset.filter(among).order_by(*self._keyset.fields))
        return Portion(
            last=keys.encode(found[-1]),
            count=len(found),
            is_last=len(found) < limit,
            skipped=len(found) - len(objects),
            objects=objects,
        )

    def _portion(self, claim: Claim, objects: list[Model], limit: int) -> Portion:
        last = self._keyset.encoded_key_of(objects[-1]) if objects else claim.after
        # PostgreSQL returns less than LIMIT when rows that it waited for no longer match.
        is_last = len(objects) < limit and not self._page(last, claim.upper).exists()
        return Portion(last=last, count=len(objects), is_last=is_last, objects=objects)

    def operate(self, portion: Portion, writes: Writes) -> None:
        for obj in portion.objects:
            if self._changes is None:
                self._call(obj)
            else:
                self._changes.operate(obj, self._call, writes)

    def _call(self, obj: Model) -> None:
        assert self._stage.operation is not None
        self._stage.operation(obj, self._db_alias)

    def units(self, portion: Portion) -> Iterator[Portion]:
        for obj in portion.objects:
            yield Portion(last=self._keyset.encoded_key_of(obj), count=1, objects=[obj])
