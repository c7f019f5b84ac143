"""Sizes batches by the time they take, and makes room for other writers on SQLite."""

from __future__ import annotations

import datetime as dt
import time

from django.db import connections

from massmigration.conf import settings
from massmigration.stores import MAX_BATCH_SIZE, is_of_documents

SQLITE_DURATION = dt.timedelta(milliseconds=250)
SQLITE_HELD = 1.0
SQLITE_GAP = 0.11
"""On SQLite, waiting writers look for the lock every 100 ms at worst: after so many seconds of batches, a gap in which
each of them looks. Rarer gaps that let everybody in are cheaper than many that are found by luck, and fairer."""

STATEMENT_FACTOR = 10
"""How many times as large the first batch is where one statement does it: hundreds of rows are nothing to it."""
GROWTH = 4
"""A batch is at most so many times as large as the one before it."""


class Pace:
    """The size of a shard's next batch."""

    def __init__(
        self, db_alias: str, *, size: int, max_size: int, fixed_size: int | None, is_statement: bool = False
    ) -> None:
        self._is_sqlite = connections[db_alias].vendor == "sqlite"
        self._fixed_size = fixed_size
        self._max_size = min(max_size, MAX_BATCH_SIZE) if is_of_documents(db_alias) else max_size
        first_size = settings.BATCH_SIZE * (STATEMENT_FACTOR if is_statement else 1)
        self.size: int = fixed_size or min(size or first_size, self._max_size)
        self._started = self._last_gap = time.monotonic()

    def start(self) -> None:
        """A batch begins."""
        self._started = time.monotonic()

    def adapt(self, count: int) -> int:
        """The size of the next batch, after one of `count` rows."""
        elapsed = max(time.monotonic() - self._started, 1e-6)
        target: dt.timedelta = settings.BATCH_DURATION
        if self._is_sqlite:
            target = min(target, SQLITE_DURATION)
        if self._fixed_size is None and count >= self.size:
            factor = min(max(target.total_seconds() / elapsed, 0.5), GROWTH)
            self.size = min(max(int(self.size * factor), 1), self._max_size)
        return self.size

    def make_room(self) -> None:
        """Between two batches."""
        if self._is_sqlite and time.monotonic() - self._last_gap >= SQLITE_HELD:
            time.sleep(SQLITE_GAP)
            self._last_gap = time.monotonic()
