"""Slows migrations down: a throttle is asked after each batch how long to wait before the next."""

from __future__ import annotations

import dataclasses
import datetime as dt


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A batch that is over, as throttles are told of it."""

    key: str
    db_alias: str
    rows: int
    duration: dt.timedelta
    workers: int
    """How many shards of the migration on this database workers are at, or wait to go on with; this one included."""


class MaxRowsPerSecond:
    """Lets a migration pass no more than `limit` rows a second, all its workers together.

    Rows go in batches: set `batch_size` as well where even one batch is too much at once.
    """

    def __init__(self, limit: float) -> None:
        if limit <= 0:
            raise ValueError(f"MaxRowsPerSecond({limit!r}): the limit must be more than 0.")
        self.limit = limit

    def __call__(self, batch: Passed) -> dt.timedelta | None:
        needed = dt.timedelta(seconds=batch.rows * batch.workers / self.limit)
        return max(needed - batch.duration, dt.timedelta(0))
