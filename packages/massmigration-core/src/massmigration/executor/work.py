"""What one batch does: fetch a portion of a shard, and run the operation on it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from django.db.models import Model, QuerySet

from massmigration import calling, keys
from massmigration.definitions.stages import MappedStage, OnceStage
from massmigration.executor.changes import Writes
from massmigration.executor.outcome import LookAgain
from massmigration.keys import Key
from massmigration.keyset import Keyset
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
