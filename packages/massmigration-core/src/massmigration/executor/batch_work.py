"""`operation_batch`, given each batch as a queryset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from massmigration import calling, keys
from massmigration.executor.changes import Writes
from massmigration.executor.work import KEYS_AT_ONCE, MappedWork, Portion
from massmigration.keys import Key
from massmigration.querysets import is_joined
from massmigration.recorder.shards import Claim


class BatchWork(MappedWork):
    """Runs the operation on one queryset a batch.

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
