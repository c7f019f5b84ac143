"""What one batch does: fetch a portion of a shard, and run the operation on it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from django.db.models import Model, Q, QuerySet

from massmigration import calling, keys
from massmigration.definitions.stages import MappedStage, OnceStage
from massmigration.exceptions import KeyChanged
from massmigration.executor.changes import Changes, Writes
from massmigration.executor.outcome import LookAgain
from massmigration.keys import Key
from massmigration.keyset import Keyset
from massmigration.querysets import can_lock_directly, is_joined, lock
from massmigration.recorder.shards import Claim

KEYS_AT_ONCE = 500
"""Keys in one condition."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """What one batch holds."""

    last: list[Any] | None
    """Where the cursor stands when it is done."""

    count: int
    is_last: bool = False  # does nothing of the shard remain after it?

    skipped: int = 0
    """Rows that were seen but vanished before they were locked."""

    objects: Sequence[Model] = ()
    queryset: QuerySet[Any] | None = None

    keys: Sequence[Key] | None = None
    """The objects' keys, where they are known and asked for."""

    span: tuple[list[Any] | None, list[Any] | None] | None = None
    """The range that the objects were found in: exclusive, inclusive."""

    object_pk: list[Any] | None = None
    """The key of the only object."""

    failed_id: int | None = None
    """The record of its failure, when it is done again."""


class Work(ABC):
    """A stage's operation, on one database."""

    def look_ahead(self, claim: Claim, limit: int) -> None:  # noqa: B027
        """Before the transaction, where a page within it would keep other batches away: find out what is next."""

    @abstractmethod
    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        """The next `limit` rows of the shard."""

    @abstractmethod
    def operate(self, portion: Portion, writes: Writes) -> None:
        """Run the operation. What the engine is to write for it goes to `writes`."""

    @abstractmethod
    def units(self, portion: Portion) -> Iterator[Portion]:
        """The portion object by object, to find the one that raises."""

    def still_has(self, done: Sequence[Portion]) -> bool:
        """Whether the queryset still has an object of these, which are done. False where nobody asks."""
        return False

    def settle(self, claim: Claim, last: list[Any] | None, failed: Collection[int]) -> None:  # noqa: B027
        """The cursor goes from the claim's to `last`; the objects of these failures failed again."""


def can_shrink(stage: MappedStage, queryset: QuerySet[Any]) -> bool:
    """Whether objects may leave the queryset when they are done: one without a condition has everything for ever."""
    return stage.catch_up and bool(queryset.query.where)


class OnceWork(Work):
    """A stage that is done by one call."""

    def __init__(self, stage: OnceStage, db_alias: str) -> None:
        self._stage = stage
        self._db_alias = db_alias

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        return Portion(last=None, count=1, is_last=True)

    def operate(self, portion: Portion, writes: Writes) -> None:
        answer = calling.call(self._stage.operation, self._db_alias)
        calling.refuse_unrun(self._stage.operation, answer)

    def units(self, portion: Portion) -> Iterator[Portion]:
        yield portion


class MappedWork(Work):
    """A stage that is mapped over a queryset."""

    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        self._stage = stage
        self._db_alias = db_alias
        queryset = stage.rows(db_alias)
        self._keyset = stage.keyset(queryset.model)
        self._queryset = self._keyset.loaded(queryset)
        # What an object is known by: its cursor may stand for another after an edit.
        self._identity = Keyset.of(queryset.model)
        self._watches = can_shrink(stage, self._queryset) and not stage.empties
        self._is_careful = False
        self._ahead: list[Key] | None = None

    def look_ahead(self, claim: Claim, limit: int) -> None:
        self._ahead = list(dict.fromkeys(self._keyset.rows(self._page(claim.after, claim.upper))[:limit]))

    @abstractmethod
    def portion_of(self, found: list[Key], *, may_lock: bool) -> Portion:
        """Those of the objects with these primary keys that the queryset still has."""

    def _page(self, after: list[Any] | None, upper: list[Any] | None) -> QuerySet[Any]:
        return self._keyset.page(self._queryset, after, upper)

    def still_has(self, done: Sequence[Portion]) -> bool:
        if not self._watches:
            return False
        single = [keys.decode(portion.object_pk) for portion in done if portion.object_pk is not None]
        return self._has_any(single) or any(self._has_any_of(each) for each in done if each.object_pk is None)

    def _has_any_of(self, portion: Portion) -> bool:
        """By the range first, which is cheap; what is found there may have come in since, unless its key says no."""
        if not portion.count:
            return False
        # Of documents, a page is as it was before the batch: their portions have no span.
        if portion.span and not self._page(*portion.span).order_by().exists():
            return False
        if portion.keys is None:
            self._is_careful = True
            raise LookAgain
        return self._has_any(portion.keys)

    def _has_any(self, found: Sequence[Key]) -> bool:
        pages = (found[start : start + KEYS_AT_ONCE] for start in range(0, len(found), KEYS_AT_ONCE))
        return any(self._queryset.filter(self._identity.among(list(page))).exists() for page in pages)


class BatchWork(MappedWork):
    """`operation_batch`, given each batch as a queryset.

    Keys are read only where it matters: for the first batch, which tells whether the queryset shrinks at all; where
    a batch cannot be taken back; and after rows were found that may have come in meanwhile.
    """

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        if self._ahead is not None:
            return self._fetch_ahead(claim, self._ahead, limit)
        is_careful = self._is_careful or not claim.processed or not self._stage.atomic
        if not (is_careful and self._watches and not claim.has_stayed):
            return self._fetch(claim, limit)
        self._is_careful = False
        portion = self._fetch(claim, min(limit, KEYS_AT_ONCE))
        assert portion.queryset is not None
        found = list(dict.fromkeys(self._identity.rows(portion.queryset)))
        # Rows that come into the range from now on are not in the batch.
        queryset = self._queryset.filter(self._identity.among(found))
        return dataclasses.replace(portion, keys=found, count=len(found), queryset=queryset)

    def _fetch_ahead(self, claim: Claim, found: list[Key], limit: int) -> Portion:
        is_last = len(found) < limit
        last = claim.upper if is_last else keys.encode(found[-1])
        queryset = self._queryset.filter(self._keyset.among(found))
        identities = list(self._identity.rows(queryset)) if found else []
        return Portion(last=last, count=len(identities), is_last=is_last, keys=identities, queryset=queryset)

    def _fetch(self, claim: Claim, limit: int) -> Portion:
        found = list(self._keyset.rows(self._page(claim.after, claim.upper))[limit - 1 : limit])
        last = keys.encode(found[0]) if found else claim.upper
        queryset = self._page(claim.after, last).order_by()
        if is_joined(queryset):
            count = self._keyset.rows(queryset).distinct().count()
        else:
            count = limit if found else queryset.count()
        is_last = not found or last == claim.upper
        return Portion(last=last, count=count, is_last=is_last, queryset=queryset, span=(claim.after, last))

    def portion_of(self, found: list[Key], *, may_lock: bool) -> Portion:
        queryset = self._queryset.filter(self._identity.among(found))
        count = self._keyset.rows(queryset).distinct().count()
        return Portion(last=None, count=count, queryset=queryset, keys=found)

    def operate(self, portion: Portion, writes: Writes) -> None:
        assert self._stage.operation_batch is not None
        assert portion.queryset is not None
        if portion.count:
            calling.operate(self._stage.operation_batch, portion.queryset, self._db_alias)

    def units(self, portion: Portion) -> Iterator[Portion]:
        assert portion.queryset is not None
        cursor, identity = self._keyset.fields, self._identity.fields
        rows = portion.queryset.order_by(*cursor).values_list(*cursor, *identity)
        for row in dict.fromkeys(rows):
            key, pk = row[: len(cursor)], row[len(cursor) :]
            queryset = self._queryset.filter(self._identity.exactly(pk))
            yield Portion(last=keys.encode(key), object_pk=keys.encode(pk), count=1, queryset=queryset)


class ObjectWork(MappedWork):
    """`operation`, given each object; with `update_fields` the engine writes what it changed."""

    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        super().__init__(stage, db_alias)
        fields = stage.update_fields
        self._changes = None if fields is None else Changes(self._queryset.model, fields, name=stage.name)

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        if self._ahead is not None:
            return self._of_keys(claim, self._ahead, limit, may_lock=False)
        page = self._page(claim.after, claim.upper)
        if not (may_lock and self._stage.lock_rows):
            return self._portion(claim, list(page[:limit]), limit)
        if can_lock_directly(page):
            return self._portion(claim, list(lock(page)[:limit]), limit)
        return self._fetch_by_keys(claim, page, limit)

    def _fetch_by_keys(self, claim: Claim, page: QuerySet[Any], limit: int) -> Portion:
        """Where the queryset itself cannot be locked: page its keys, lock the base rows, read through it again."""
        return self._of_keys(claim, list(self._keyset.rows(page)[:limit]), limit, may_lock=True)

    def _of_keys(self, claim: Claim, found: list[Key], limit: int, *, may_lock: bool) -> Portion:
        if not found:
            return Portion(last=claim.after, count=0, is_last=True)
        unique = list(dict.fromkeys(found))
        portion = self._portion_among(self._keyset.among(unique), may_lock=may_lock)
        return dataclasses.replace(
            portion,
            last=keys.encode(found[-1]),
            count=len(unique),
            is_last=len(found) < limit,
            skipped=len(unique) - portion.count,
        )

    def portion_of(self, found: list[Key], *, may_lock: bool) -> Portion:
        return self._portion_among(self._identity.among(found), may_lock=may_lock)

    def _portion_among(self, among: Q, *, may_lock: bool) -> Portion:
        if may_lock and self._stage.lock_rows:
            base = self._queryset.model._base_manager.using(self._db_alias).filter(among)
            list(lock(self._identity.rows(base.order_by(*self._keyset.fields))))
        objects = self._once(self._queryset.filter(among).order_by(*self._keyset.fields))
        return Portion(last=None, count=len(objects), objects=objects, keys=self._keys(objects))

    def _portion(self, claim: Claim, objects: list[Model], limit: int) -> Portion:
        last = self._keyset.encoded_key_of(objects[-1]) if objects else claim.after
        # PostgreSQL returns less than LIMIT when rows that it waited for no longer match.
        is_last = last == claim.upper or (len(objects) < limit and not self._page(last, claim.upper).exists())
        if is_joined(self._queryset):
            objects = self._once(objects)
        span = (claim.after, last)
        found = self._keys(objects)
        return Portion(last=last, count=len(objects), is_last=is_last, objects=objects, keys=found, span=span)

    def _keys(self, objects: Sequence[Model]) -> Sequence[Key]:
        return [self._identity.key_of(obj) for obj in objects] if self._watches else ()

    def _once(self, objects: Iterable[Model]) -> list[Model]:
        """Each object once: a join may bring it several times."""
        return list({self._identity.key_of(obj): obj for obj in objects}.values())

    def operate(self, portion: Portion, writes: Writes) -> None:
        for obj in portion.objects:
            if self._changes is None:
                self._call(obj)
            else:
                self._changes.operate(obj, self._call, writes)

    def _call(self, obj: Model) -> None:
        assert self._stage.operation is not None
        before = self._identity.key_of(obj)
        calling.operate(self._stage.operation, obj, self._db_alias)
        after = self._identity.key_of(obj)
        if after != before and any(part is not None for part in after):  # of a deleted object, Django makes it None
            raise KeyChanged(_advice(before, after))

    def units(self, portion: Portion) -> Iterator[Portion]:
        for obj in portion.objects:
            last, pk = self._keyset.encoded_key_of(obj), self._identity.encoded_key_of(obj)
            yield Portion(last=last, object_pk=pk, count=1, objects=[obj])


def _advice(before: Key, after: Key) -> str:
    was, now = (", ".join(map(repr, key)) for key in (before, after))
    return (
        f"The operation changed the primary key of its object from {was} to {now}. Batches go by keys, and "
        "other rows may refer to the old one. To make a copy of an object, change a copy.copy() of it."
    )
