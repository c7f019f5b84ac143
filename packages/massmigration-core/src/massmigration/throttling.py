"""Throttles, which slow migrations down: after each batch, a throttle returns how long to wait before the next."""

from __future__ import annotations

import dataclasses
import datetime as dt


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompletedBatch:
    """A batch that has been committed: the argument of a throttle."""

    key: str
    db_alias: str
    rows: int
    duration: dt.timedelta
    workers: int
    """Number of the migration's shards on this database that are being processed or throttled, including this one."""


class MaxRowsPerSecond:
    """A throttle that limits a migration to `limit` rows a second, all of its workers together.

    It waits between batches. If a single batch is too much at once, set `batch_size`, too.
    """

    def __init__(self, limit: float) -> None:
        if limit <= 0:
            raise ValueError(f"MaxRowsPerSecond({limit!r}): the limit must be greater than 0.")
        self.limit = limit

    def __call__(self, batch: CompletedBatch) -> dt.timedelta | None:
        needed = dt.timedelta(seconds=batch.rows * batch.workers / self.limit)
        return max(needed - batch.duration, dt.timedelta(0))
