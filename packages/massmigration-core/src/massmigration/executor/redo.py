"""Does failed objects again: a shard whose range is one of failures, instead of the queryset's keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from massmigration import keys
from massmigration.executor.changes import Writes
from massmigration.executor.work import KEYS_AT_ONCE, MappedWork, Portion, Work
from massmigration.recorder import failures
from massmigration.recorder.shards import Claim


class RedoWork(Work):
    """A stage's work on its failed objects, found by their keys. One that is gone, or no longer matches, is done."""

    def __init__(self, work: MappedWork) -> None:
        self._work = work
        self._page: list[tuple[int, list[Any]]] = []

    def fetch(self, claim: Claim, limit: int, *, may_lock: bool) -> Portion:
        (after,), (upper,) = claim.after or [0], claim.upper or [0]
        limit = min(limit, KEYS_AT_ONCE)
        self._page = failures.page(claim.job, after, upper, limit)
        found = [keys.decode(object_pk) for _, object_pk in self._page]
        portion = self._work.portion_of(found, may_lock=may_lock)
        return dataclasses.replace(
            portion,
            last=[self._page[-1][0]] if self._page else claim.upper,
            count=len(self._page),
            is_last=len(self._page) < limit,
            skipped=len(self._page) - portion.count,
        )

    def operate(self, portion: Portion, writes: Writes) -> None:
        self._work.operate(portion, writes)

    def units(self, portion: Portion) -> Iterator[Portion]:
        units = {json.dumps(unit.object_pk): unit for unit in self._work.units(portion)}
        for failed_id, object_pk in self._page:
            unit = units.get(json.dumps(object_pk))
            if unit is not None:
                yield dataclasses.replace(unit, last=[failed_id], failed_id=failed_id)

    def still_has(self, done: Sequence[Portion]) -> bool:
        return self._work.still_has(done)

    def settle(self, claim: Claim, last: list[Any] | None, failed: Collection[int]) -> None:
        (after,) = claim.after or [0]
        if last is not None:
            failures.resolve_page(claim.job, after, last[0], but=failed)
