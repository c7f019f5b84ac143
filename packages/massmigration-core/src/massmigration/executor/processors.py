"""Processors, which fetch the batches of a shard and run the operation, for each kind of stage."""

from __future__ import annotations

import dataclasses
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from django.db.models import Model, Q, QuerySet

from massmigration.definitions import callables
from massmigration.definitions.stages import MappedStage, OnceStage, Stage, StageContext
from massmigration.dialects import dialect_of
from massmigration.documents import conditions, session
from massmigration.exceptions import KeyChanged, RowNotWritten
from massmigration.executor.batch_size import Deadline
from massmigration.executor.errors import ConcurrentInsert
from massmigration.executor.objects import DirtyFields, PendingUpdates, loaded_plainly
from massmigration.executor.outcomes import Batch
from massmigration.paging.keyset import KEYS_AT_ONCE, Key, Keyset, decode_key, encode_key
from massmigration.paging.querysets import all_rows, can_lock_directly, hold, is_joined, lock
from massmigration.recorder import failures
from massmigration.recorder.shards import Claim


class Processor(ABC):
    """A processor that fetches the batches of a stage on one database and runs the operation on them."""

    holds_rows = False
    """Whether the rows of a batch are locked until it commits."""

    has_parts = True
    """Whether a batch that fails is processed again in parts. A batch of one call would only fail again."""

    takes_sets = False
    """Whether the operation is called for a set of rows. A set that fails is bisected to find the failing rows."""

    def prefetch_keys(self, claim: Claim, limit: int) -> None:  # noqa: B027
        """Fetch the next keys before the transaction, where a query inside it would block other batches."""

    @abstractmethod
    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Batch:
        """Fetch the next `limit` rows of the shard."""

    @abstractmethod
    def process(self, batch: Batch, updates: PendingUpdates, until: Deadline | None = None) -> Batch:
        """Run the operation, and add the changed objects to `updates`.

        Return the batch, or the part of it that was processed before the deadline `until`. Without a transaction,
        there is no deadline, and the result is not used.
        """

    def part(self, batch: Batch, done: int, last: list[Any]) -> Batch:
        """Return the part of the batch with its first `done` objects. `last`: the cursor after them."""
        return dataclasses.replace(
            batch,
            last=last,
            count=done,
            is_last=False,
            skipped=0,
            objects=batch.objects[:done],
            keys=batch.keys[:done] if batch.keys else batch.keys,
            span=batch.span and (batch.span[0], last),
        )

    @abstractmethod
    def split_into_objects(self, batch: Batch) -> Iterator[Batch]:
        """Yield each object as a batch of its own."""

    def rows_of(self, batch: Batch) -> list[Batch]:
        """Return each row of a set as a batch of its own, with its keys alone, in the order of the cursor."""
        raise NotImplementedError

    def subset(self, batch: Batch, rows: Sequence[Batch], after: list[Any] | None) -> Batch:
        """Return consecutive rows of a set as a batch that can be processed. `after`: the cursor before them."""
        raise NotImplementedError

    def still_matches(self, done: Sequence[Batch]) -> bool:
        """Return whether the queryset still contains a processed object of these batches. False if not checked."""
        return False

    def resolve_failures(self, claim: Claim, last: list[Any] | None, failed: Collection[int]) -> None:  # noqa: B027
        """Resolve the failures of the objects up to the cursor `last`, except those that failed again."""


def can_shrink(stage: MappedStage, queryset: QuerySet[Any]) -> bool:
    """Return whether processed objects may leave the queryset. Without a condition they never do."""
    return stage.catch_up and bool(queryset.query.where)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchedKeys:
    """The keys that were fetched before the transaction."""

    fitting: list[Key]
    last: Key | None
    """The last key that was read, or None if no rows are left."""

    is_last: bool


class OnceProcessor(Processor):
    """The processor of a stage that is done by one call."""

    has_parts = False

    def __init__(self, stage: OnceStage, db_alias: str, context: StageContext | None = None) -> None:
        self._stage = stage
        self._db_alias = db_alias
        self._context = context or StageContext(key=stage.name, db_alias=db_alias, attempt_id="", stage=0)

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Batch:
        return Batch(last=None, count=1, is_last=True)

    def process(self, batch: Batch, updates: PendingUpdates, until: Deadline | None = None) -> Batch:
        context = (self._context,) if self._stage.takes_context else ()
        answer = callables.call(self._stage.operation, self._db_alias, *context)
        callables.check_executed(self._stage.operation, answer)
        return batch

    def split_into_objects(self, batch: Batch) -> Iterator[Batch]:
        yield batch


class MappedProcessor(Processor):
    """A processor of a stage that is mapped over a queryset."""

    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        self._stage = stage
        self._db_alias = db_alias
        queryset = stage.rows(db_alias)
        self._keyset = stage.keyset(queryset.model)
        self._queryset = self._keyset.loaded(queryset)
        # Identifies an object: after an edit, a cursor may belong to another object.
        self._identity = Keyset.of(queryset.model)
        self._watches = can_shrink(stage, self._queryset) and not stage.empties
        self._is_careful = False
        self._prefetched: PrefetchedKeys | None = None
        self._narrowing = None if dialect_of(self._queryset.db).has_sql else conditions.narrow(self._queryset)
        if self._narrowing is not None:
            self._queryset = self._narrowing.bare

    def prefetch_keys(self, claim: Claim, limit: int) -> None:
        parts, self._prefetched = self._narrowing, None  # the keys of the previous batch are used up
        page = self._page(claim.after, claim.upper)[:limit]
        if parts is None or parts.is_complete:
            found = list(dict.fromkeys(self._keyset.rows(page)))
            self._prefetched = PrefetchedKeys(
                fitting=found, last=found[-1] if found else None, is_last=len(found) < limit
            )
        else:
            objects = list(page)
            fitting = [self._keyset.key_of(obj) for obj in objects if parts.fits(obj)]
            last = self._keyset.key_of(objects[-1]) if objects else None
            self._prefetched = PrefetchedKeys(fitting=fitting, last=last, is_last=len(objects) < limit)

    def _fitting(self, queryset: QuerySet[Any]) -> list[Any]:
        """Return the objects. In a document database, only those that match: indexes may be out of date."""
        return [obj for obj in queryset if self._narrowing is None or self._narrowing.fits(obj)]

    @abstractmethod
    def batch_of_keys(self, found: list[Key], *, may_lock: bool) -> Batch:
        """Return the objects with these primary keys that the queryset still contains."""

    def _page(self, after: list[Any] | None, upper: list[Any] | None) -> QuerySet[Any]:
        queryset = self._queryset if self._narrowing is None else self._narrowing.found
        return self._keyset.page(queryset, after, upper)

    def still_matches(self, done: Sequence[Batch]) -> bool:
        if not self._watches:
            return False
        single = [decode_key(batch.object_pk) for batch in done if batch.object_pk is not None]
        return self._has_any(single) or any(self._has_any_of(each) for each in done if each.object_pk is None)

    def _has_any_of(self, batch: Batch) -> bool:
        """Check the range first, which is cheap. Rows found there may be new, unless the batch knows its keys."""
        if not batch.count:
            return False
        # In a document database, a query shows the state before the transaction: those batches have no span.
        if batch.span and not self._page(*batch.span).order_by().exists():
            return False
        if batch.keys is None:
            self._is_careful = True
            raise ConcurrentInsert
        return self._has_any(batch.keys)

    def _has_any(self, found: Sequence[Key]) -> bool:
        if self._narrowing is not None:
            return self._has_document(found)
        pages = (found[start : start + KEYS_AT_ONCE] for start in range(0, len(found), KEYS_AT_ONCE))
        return any(self._queryset.filter(self._identity.among(list(page))).exists() for page in pages)

    def _has_document(self, found: Sequence[Key]) -> bool:
        """Check the documents with these keys, as this transaction has changed them."""
        deleted = session.deleted(self._queryset.model, self._db_alias)
        left = [key for key in found if key[0] not in deleted]
        return any(self._fitting(self._queryset.filter(self._identity.among(left)))) if left else False


class ObjectProcessor(MappedProcessor):
    """A processor that runs `operation` on each object. With `update_fields`, the engine writes the changed fields."""

    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        super().__init__(stage, db_alias)
        self._queryset = loaded_plainly(self._queryset)
        fields = stage.update_fields
        self.holds_rows = stage.atomic and stage.lock_rows
        # PostgreSQL silently skips rows when it locks them, if row-level security allows only reading them.
        self._is_secured = self.holds_rows and dialect_of(db_alias).has_row_security(self._queryset.model)
        self._unlocked: set[Key] = set()
        self._dirty_fields = None if fields is None else DirtyFields(self._queryset.model, fields, name=stage.name)

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Batch:
        if self._prefetched is not None:
            return self._of_documents(claim, self._prefetched)
        page = self._page(claim.after, claim.upper)
        if not (may_lock and self._stage.lock_rows):
            return self._batch_of(claim, list(page[:limit]), limit)
        if can_lock_directly(page) and not self._is_secured:
            return self._batch_of(claim, list(lock(page)[:limit]), limit)
        return self._fetch_by_keys(claim, page, limit)

    def _fetch_by_keys(self, claim: Claim, page: QuerySet[Any], limit: int) -> Batch:
        """Fetch keys, lock the rows of the model's table, and read them: for a queryset that cannot be locked."""
        if len(self._keyset.fields) > 1:  # each key is a condition of its own
            limit = min(limit, KEYS_AT_ONCE)
        return self._of_keys(claim, list(self._keyset.rows(page)[:limit]), limit, may_lock=True)

    def _of_keys(self, claim: Claim, found: list[Key], limit: int, *, may_lock: bool) -> Batch:
        if not found:
            return Batch(last=claim.after, count=0, is_last=True)
        unique = list(dict.fromkeys(found))
        batch = self._batch_among(self._keyset.among(unique), may_lock=may_lock)
        return dataclasses.replace(
            batch,
            last=encode_key(found[-1]),
            count=len(unique),
            is_last=len(found) < limit,
            skipped=len(unique) - batch.count,
            sought=unique if batch.count < len(unique) else (),
        )

    def _of_documents(self, claim: Claim, prefetched: PrefetchedKeys) -> Batch:
        if prefetched.last is None:
            return Batch(last=claim.after, count=0, is_last=True)
        batch = self._batch_among(self._keyset.among(prefetched.fitting), may_lock=False)
        count = len(prefetched.fitting)
        return dataclasses.replace(
            batch,
            last=encode_key(prefetched.last),
            count=count,
            is_last=prefetched.is_last,
            skipped=count - batch.count,
            sought=prefetched.fitting if batch.count < count else (),
        )

    def batch_of_keys(self, found: list[Key], *, may_lock: bool) -> Batch:
        return self._batch_among(self._identity.among(found), may_lock=may_lock)

    def _batch_among(self, among: Q, *, may_lock: bool) -> Batch:
        held = None
        if may_lock and self._stage.lock_rows:
            held = hold(all_rows(self._queryset.model, self._db_alias).filter(among))
        objects = self._once(self._fitting(self._queryset.filter(among).order_by(*self._keyset.fields)))
        if held is not None and len(held) < len(objects):
            self._unlocked = set(self._identity.keys_of(objects)).difference(held)
        return Batch(last=None, count=len(objects), objects=objects, keys=self._keys(objects))

    def _batch_of(self, claim: Claim, objects: list[Model], limit: int) -> Batch:
        last = self._keyset.encoded_key_of(objects[-1]) if objects else claim.after
        # PostgreSQL returns less than LIMIT when rows that it waited for no longer match.
        is_last = last == claim.upper or (len(objects) < limit and not self._page(last, claim.upper).exists())
        if is_joined(self._queryset):
            objects = self._once(objects)
        span = (claim.after, last)
        found = () if claim.still_matched else self._keys(objects)
        return Batch(last=last, count=len(objects), is_last=is_last, objects=objects, keys=found, span=span)

    def _keys(self, objects: Sequence[Model]) -> Sequence[Key]:
        return self._identity.keys_of(objects) if self._watches else ()

    def _once(self, objects: Iterable[Model]) -> list[Model]:
        """Return each object once: a join may repeat it."""
        return list({self._identity.key_of(obj): obj for obj in objects}.values())

    def part(self, batch: Batch, done: int, last: list[Any]) -> Batch:
        part = super().part(batch, done, last)
        seen = next((place for place, key in enumerate(batch.sought, 1) if encode_key(key) == last), done)
        return dataclasses.replace(part, count=seen, skipped=seen - done)

    def process(self, batch: Batch, updates: PendingUpdates, until: Deadline | None = None) -> Batch:
        operation, dirty_fields, db_alias = self._stage.operation, self._dirty_fields, self._db_alias
        assert operation is not None

        def call(obj: Model) -> None:
            answer = operation(obj, db_alias)
            if answer is not None:
                callables.check_executed(operation, answer)

        # Checks are done once for the batch: with cheap operations, checks for each object would be noticeable.
        before = self._identity.keys_of(batch.objects)
        if self._unlocked and not self._unlocked.isdisjoint(before):
            raise RowNotWritten(
                "The database returns a row, but does not allow a transaction to lock it for a change. Check the "
                "row-level security of the table."
            )
        cursors = before if self._keyset == self._identity else self._keyset.keys_of(batch.objects)
        now, end = until or Deadline(time.monotonic, float("inf"))
        done = 0
        with callables.exits_refused(operation):
            for done, obj in enumerate(batch.objects, 1):  # noqa: B007
                if dirty_fields is None:
                    call(obj)
                else:
                    dirty_fields.process(obj, call, updates)
                if now() >= end:
                    break
        _check_same(before[:done], self._identity.keys_of(batch.objects[:done]))
        return batch if done == len(batch.objects) else self.part(batch, done, encode_key(cursors[done - 1]))

    def split_into_objects(self, batch: Batch) -> Iterator[Batch]:
        for obj in batch.objects:
            last, pk = self._keyset.encoded_key_of(obj), self._identity.encoded_key_of(obj)
            yield Batch(last=last, object_pk=pk, count=1, objects=[obj])


def _check_same(before: Sequence[Key], after: Sequence[Key]) -> None:
    for was, now in zip(before, after, strict=True) if after != before else ():
        if now != was and any(part is not None for part in now):  # Django sets the pk of a deleted object to None
            raise KeyChanged(_advice(was, now))


def _advice(before: Key, after: Key) -> str:
    was, now = (", ".join(map(repr, key)) for key in (before, after))
    return (
        f"The operation changed the primary key of its object from {was} to {now}. Batches follow the keys, and "
        "other rows may refer to the old key. To insert another object, change a copy.copy() of this one."
    )


class SetProcessor(MappedProcessor):
    """A processor that runs `operation_batch` on the queryset of each batch.

    Keys are read only where necessary: for the first batch, which shows whether the queryset shrinks; for batches that
    cannot be rolled back; and after rows were found that may be new.
    """

    takes_sets = True

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Batch:
        if self._prefetched is not None:
            return self._of_documents(claim, self._prefetched)
        is_careful = self._is_careful or not claim.processed or not self._stage.atomic
        if not (is_careful and self._watches and not claim.still_matched):
            return self._fetch(claim, limit)
        self._is_careful = False
        batch = self._fetch(claim, min(limit, KEYS_AT_ONCE))
        assert batch.queryset is not None
        found = list(dict.fromkeys(self._identity.rows(batch.queryset)))
        # Rows that are inserted into the range after this are not in the batch.
        queryset = self._queryset.filter(self._identity.among(found))
        return dataclasses.replace(batch, keys=found, count=len(found), queryset=queryset)

    def _of_documents(self, claim: Claim, prefetched: PrefetchedKeys) -> Batch:
        last = claim.upper if prefetched.last is None or prefetched.is_last else encode_key(prefetched.last)
        batch = self._of_known(self._fitting(self._queryset.filter(self._keyset.among(prefetched.fitting))))
        return dataclasses.replace(batch, last=last, is_last=prefetched.is_last)

    def _of_known(self, objects: Sequence[Model]) -> Batch:
        found = self._identity.keys_of(objects)
        queryset = self._queryset.filter(self._identity.among(found))
        return Batch(last=None, count=len(found), queryset=queryset, keys=found)

    def _fetch(self, claim: Claim, limit: int) -> Batch:
        found = list(self._keyset.rows(self._page(claim.after, claim.upper))[limit - 1 : limit])
        last = encode_key(found[0]) if found else claim.upper
        queryset = self._page(claim.after, last).order_by()
        if is_joined(queryset):
            count = self._keyset.rows(queryset).distinct().count()
        else:
            count = limit if found else queryset.count()
        is_last = not found or last == claim.upper
        return Batch(last=last, count=count, is_last=is_last, queryset=queryset, span=(claim.after, last))

    def batch_of_keys(self, found: list[Key], *, may_lock: bool) -> Batch:
        queryset = self._queryset.filter(self._identity.among(found))
        if self._narrowing is not None:
            return self._of_known(self._fitting(queryset))
        count = self._keyset.rows(queryset).distinct().count()
        return Batch(last=None, count=count, queryset=queryset, keys=found)

    def process(self, batch: Batch, updates: PendingUpdates, until: Deadline | None = None) -> Batch:
        assert self._stage.operation_batch is not None
        assert batch.queryset is not None
        if batch.count:
            callables.call_operation(self._stage.operation_batch, batch.queryset, self._db_alias)
        return batch

    def split_into_objects(self, batch: Batch) -> Iterator[Batch]:
        for row in self.rows_of(batch):
            yield self.subset(batch, [row], None)

    def rows_of(self, batch: Batch) -> list[Batch]:
        assert batch.queryset is not None
        cursor, identity = self._keyset.fields, self._identity.fields
        rows = batch.queryset.order_by(*cursor).values_list(*cursor, *identity)
        keys = ((row[: len(cursor)], row[len(cursor) :]) for row in dict.fromkeys(rows))
        return [Batch(last=encode_key(key), object_pk=encode_key(pk), count=1) for key, pk in keys]

    def subset(self, batch: Batch, rows: Sequence[Batch], after: list[Any] | None) -> Batch:
        found = [decode_key(row.object_pk or []) for row in rows]
        if len(rows) == 1:
            return dataclasses.replace(rows[0], queryset=self._queryset.filter(self._identity.exactly(found[0])))
        last = rows[-1].last
        if batch.keys is None:  # too many for one condition
            queryset = self._page(after, last).order_by()
            return Batch(last=last, count=len(rows), queryset=queryset, keys=found, span=(after, last))
        return Batch(
            last=last, count=len(rows), queryset=self._queryset.filter(self._identity.among(found)), keys=found
        )


class RetryProcessor(Processor):
    """A processor of failed objects, by their keys. An object that was deleted or no longer matches is resolved."""

    def __init__(self, processor: MappedProcessor) -> None:
        self._processor = processor
        self.holds_rows = processor.holds_rows
        self.takes_sets = processor.takes_sets
        self._page: list[tuple[int, list[Any]]] = []
        self._cursors: list[list[int]] = []
        """Cursors of the objects."""

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Batch:
        (after,), (upper,) = claim.after or [0], claim.upper or [0]
        limit = min(limit, KEYS_AT_ONCE)
        self._page = failures.page(claim.job, after, upper, limit)
        found = [decode_key(object_pk) for _, object_pk in self._page]
        batch = self._processor.batch_of_keys(found, may_lock=may_lock)
        if batch.objects:
            batch = self._in_order(batch)
        return dataclasses.replace(
            batch,
            last=[self._page[-1][0]] if self._page else claim.upper,
            count=len(self._page),
            is_last=len(self._page) < limit,
            skipped=len(self._page) - batch.count,
        )

    def _in_order(self, batch: Batch) -> Batch:
        """Return the batch with its objects in the order of their failures, which is the order of the cursor."""
        found = {
            json.dumps(single.object_pk): place
            for place, single in enumerate(self._processor.split_into_objects(batch))
        }
        places = [(found.pop(json.dumps(object_pk), None), failed_id) for failed_id, object_pk in self._page]
        order = [(place, failed_id) for place, failed_id in places if place is not None]
        self._cursors = [[failed_id] for _, failed_id in order]
        return dataclasses.replace(
            batch,
            objects=[batch.objects[place] for place, _ in order],
            keys=batch.keys and [batch.keys[place] for place, _ in order],
        )

    def part(self, batch: Batch, done: int, last: list[Any]) -> Batch:
        seen = 1 + [[failed_id] for failed_id, _ in self._page].index(last)
        return dataclasses.replace(super().part(batch, done, last), count=seen, skipped=seen - done)

    def process(self, batch: Batch, updates: PendingUpdates, until: Deadline | None = None) -> Batch:
        done = self._processor.process(batch, updates, until)
        if done is batch:
            return batch
        count = len(done.objects)
        return self.part(batch, count, self._cursors[count - 1])

    def split_into_objects(self, batch: Batch) -> Iterator[Batch]:
        singles = {json.dumps(single.object_pk): single for single in self._processor.split_into_objects(batch)}
        for failed_id, object_pk in self._page:
            single = singles.get(json.dumps(object_pk))
            if single is not None:
                yield dataclasses.replace(single, last=[failed_id], failed_id=failed_id)

    def rows_of(self, batch: Batch) -> list[Batch]:
        rows = {json.dumps(row.object_pk): row for row in self._processor.rows_of(batch)}
        page = ((failed_id, rows.get(json.dumps(object_pk))) for failed_id, object_pk in self._page)
        return [dataclasses.replace(row, last=[failed_id], failed_id=failed_id) for failed_id, row in page if row]

    def subset(self, batch: Batch, rows: Sequence[Batch], after: list[Any] | None) -> Batch:
        return self._processor.subset(batch, rows, after)

    def still_matches(self, done: Sequence[Batch]) -> bool:
        return self._processor.still_matches(done)

    def resolve_failures(self, claim: Claim, last: list[Any] | None, failed: Collection[int]) -> None:
        (after,) = claim.after or [0]
        if last is not None:
            failures.resolve_page(claim.job, after, last[0], but=failed)


def processor_for(
    stage: Stage, db_alias: str, *, is_retry: bool = False, context: StageContext | None = None
) -> Processor:
    """Return the processor of a stage, for its queryset or for its failed objects."""
    if isinstance(stage, OnceStage):
        return OnceProcessor(stage, db_alias, context)
    if not isinstance(stage, MappedStage):
        raise TypeError(f"processor_for() has no processor for {stage!r}.")
    processor = SetProcessor(stage, db_alias) if stage.operation_batch else ObjectProcessor(stage, db_alias)
    return RetryProcessor(processor) if is_retry else processor
