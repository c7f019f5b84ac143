"""`operation`, called for each object of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.db.models import Model, Q, QuerySet

from massmigration import calling, keys
from massmigration.definitions.stages import MappedStage
from massmigration.exceptions import KeyChanged
from massmigration.executor.changes import Changes, Writes
from massmigration.executor.loading import loaded_plainly
from massmigration.executor.work import KEYS_AT_ONCE, MappedWork, Portion
from massmigration.keys import Key
from massmigration.querysets import can_lock_directly, hold, is_joined, lock
from massmigration.recorder.shards import Claim


class ObjectWork(MappedWork):
    """`operation`, given each object; with `update_fields` the engine writes what it changed."""

    def __init__(self, stage: MappedStage, db_alias: str) -> None:
        super().__init__(stage, db_alias)
        self._queryset = loaded_plainly(self._queryset)
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
        if len(self._keyset.fields) > 1:  # each key is a condition of its own
            limit = min(limit, KEYS_AT_ONCE)
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
            hold(self._queryset.model._base_manager.using(self._db_alias).filter(among))
        objects = self._once(self._queryset.filter(among).order_by(*self._keyset.fields))
        return Portion(last=None, count=len(objects), objects=objects, keys=self._keys(objects))

    def _portion(self, claim: Claim, objects: list[Model], limit: int) -> Portion:
        last = self._keyset.encoded_key_of(objects[-1]) if objects else claim.after
        # PostgreSQL returns less than LIMIT when rows that it waited for no longer match.
        is_last = last == claim.upper or (len(objects) < limit and not self._page(last, claim.upper).exists())
        if is_joined(self._queryset):
            objects = self._once(objects)
        span = (claim.after, last)
        found = () if claim.has_stayed else self._keys(objects)
        return Portion(last=last, count=len(objects), is_last=is_last, objects=objects, keys=found, span=span)

    def _keys(self, objects: Sequence[Model]) -> Sequence[Key]:
        return self._identity.keys_of(objects) if self._watches else ()

    def _once(self, objects: Iterable[Model]) -> list[Model]:
        """Each object once: a join may bring it several times."""
        return list({self._identity.key_of(obj): obj for obj in objects}.values())

    def operate(self, portion: Portion, writes: Writes) -> None:
        operation, changes, db_alias = self._stage.operation, self._changes, self._db_alias
        assert operation is not None

        def call(obj: Model) -> None:
            answer = operation(obj, db_alias)
            if answer is not None:
                calling.refuse_unrun(operation, answer)

        # What is done for a batch is not done for each of its objects: with cheap operations, it is felt.
        before = self._identity.keys_of(portion.objects)
        with calling.exits_refused(operation):
            for obj in portion.objects:
                if changes is None:
                    call(obj)
                else:
                    changes.operate(obj, call, writes)
        _check_same(before, self._identity.keys_of(portion.objects))

    def units(self, portion: Portion) -> Iterator[Portion]:
        for obj in portion.objects:
            last, pk = self._keyset.encoded_key_of(obj), self._identity.encoded_key_of(obj)
            yield Portion(last=last, object_pk=pk, count=1, objects=[obj])


def _check_same(before: Sequence[Key], after: Sequence[Key]) -> None:
    for was, now in zip(before, after, strict=True) if after != before else ():
        if now != was and any(part is not None for part in now):  # of a deleted object, Django makes it None
            raise KeyChanged(_advice(was, now))


def _advice(before: Key, after: Key) -> str:
    was, now = (", ".join(map(repr, key)) for key in (before, after))
    return (
        f"The operation changed the primary key of its object from {was} to {now}. Batches go by keys, and "
        "other rows may refer to the old one. To make a copy of an object, change a copy.copy() of it."
    )
