"""What one batch does: fetch a portion of a shard, and run the operation on it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from django.db.models import Model, QuerySet

from massmigration import keys
from massmigration.definitions.stages import MappedStage, OnceStage
from massmigration.executor.changes import Changes, Writes
from massmigration.keys import Key
from massmigration.keyset import Keyset
from massmigration.querysets import can_lock_directly, is_joined, lock, prepare
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

    object_pk: list[Any] | None = None
    """The key of the only object."""

    failed_id: int | None = None
    """The record of its failure, when it is done again."""


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

    def settle(self, claim: Claim, last: list[Any] | None, failed: Collection[int]) -> None:  # noqa: B027
        """The cursor goes from the claim's to `last`; the objects of these failures failed again."""


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


class MappedWork(Work):
    """A stage that is mapped over a queryset."""

    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        self._stage = stage
        self._db_alias = db_alias
        self._queryset = prepare(stage.get_queryset(db_alias), db_alias, name=stage.name, may_leave=not stage.atomic)
        self._keyset = Keyset.of(self._queryset.model)

    @abstractmethod
    def portion_of(self, found: list[Key], *, may_lock: bool) -> Portion:
        """Those of the objects with these keys that the queryset still has."""

    def _page(self, after: list[Any] | None, upper: list[Any] | None) -> QuerySet[Any]:
        return self._keyset.page(self._queryset, after, upper)


class BatchWork(MappedWork):
    """`operation_batch`, given each batch as a queryset."""

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        found = list(self._keyset.rows(self._page(claim.after, claim.upper))[limit - 1 : limit])
        last = keys.encode(found[0]) if found else claim.upper
        queryset = self._page(claim.after, last).order_by()
        if is_joined(queryset):
            count = self._keyset.rows(queryset).distinct().count()
        else:
            count = limit if found else queryset.count()
        return Portion(last=last, count=count, is_last=not found, queryset=queryset)

    def portion_of(self, found: list[Key], *, may_lock: bool) -> Portion:
        queryset = self._queryset.filter(self._keyset.among(found))
        return Portion(last=None, count=self._keyset.rows(queryset).distinct().count(), queryset=queryset)

    def operate(self, portion: Portion, writes: Writes) -> None:
        assert self._stage.operation_batch is not None
        assert portion.queryset is not None
        if portion.count:
            self._stage.operation_batch(portion.queryset, self._db_alias)

    def units(self, portion: Portion) -> Iterator[Portion]:
        assert portion.queryset is not None
        for key in dict.fromkeys(self._keyset.rows(portion.queryset.order_by(*self._keyset.fields))):
            queryset = self._queryset.filter(self._keyset.exactly(key))
            last = keys.encode(key)
            yield Portion(last=last, object_pk=last, count=1, queryset=queryset)


class ObjectWork(MappedWork):
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
        unique = list(dict.fromkeys(found))
        portion = self.portion_of(unique, may_lock=True)
        return dataclasses.replace(
            portion,
            last=keys.encode(found[-1]),
            count=len(unique),
            is_last=len(found) < limit,
            skipped=len(unique) - portion.count,
        )

    def portion_of(self, found: list[Key], *, may_lock: bool) -> Portion:
        among = self._keyset.among(found)
        if may_lock and self._stage.lock_rows:
            base = self._queryset.model._base_manager.using(self._db_alias).filter(among)
            list(lock(self._keyset.rows(base.order_by(*self._keyset.fields))))
        objects = self._once(self._queryset.filter(among).order_by(*self._keyset.fields))
        return Portion(last=None, count=len(objects), objects=objects)

    def _portion(self, claim: Claim, objects: list[Model], limit: int) -> Portion:
        last = self._keyset.encoded_key_of(objects[-1]) if objects else claim.after
        # PostgreSQL returns less than LIMIT when rows that it waited for no longer match.
        is_last = len(objects) < limit and not self._page(last, claim.upper).exists()
        if is_joined(self._queryset):
            objects = self._once(objects)
        return Portion(last=last, count=len(objects), is_last=is_last, objects=objects)

    def _once(self, objects: Iterable[Model]) -> list[Model]:
        """Each object once: a join may bring it several times."""
        return list({self._keyset.key_of(obj): obj for obj in objects}.values())

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
            last = self._keyset.encoded_key_of(obj)
            yield Portion(last=last, object_pk=last, count=1, objects=[obj])
