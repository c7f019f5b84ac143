"""Work stealing: a job without work takes the second half of the largest shard of another worker."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from massmigration import text
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.dialects import dialect_of
from massmigration.dialects.errors import is_transient
from massmigration.executor.adaptive_pace import max_workers_of
from massmigration.executor.throttle import sleep
from massmigration.executor.transport import Transport
from massmigration.jobs import Job
from massmigration.paging.querysets import all_rows
from massmigration.paging.sharding import key_at
from massmigration.recorder import shards, work_stealing
from massmigration.recorder.shards import Claim
from massmigration.recorder.work_stealing import Victim

logger = logging.getLogger(__name__)

MIN_BATCHES = 2
"""The minimum size of each half, in batches of the shard's owner. The size of a shard may be an estimate."""

COUNT_UP_TO = 100_000
"""The number of rows up to which the size of a shard is counted. For larger shards the planner's estimate is used."""

WALK_UP_TO = 2_000_000
"""The maximum number of rows that are scanned to find a shard's middle. A million rows take 50 to 100 ms."""

TRIES = 4
PAUSE = dt.timedelta(milliseconds=100)
"""The pause between two tries. A shard passes to its next job in less time."""


def steal(job: Job, stage: Stage, transport: Transport, worker: str) -> Claim | None:
    """Split the shard of another worker and return a claim of the new part, or None if a split is not worthwhile.

    The job's own shard is done. Shards of the stage that have no worker are processed first. The database must be able
    to skip locked rows.
    """
    # Without a transaction, the owner may be in the middle of effects that it would have to repeat.
    if not isinstance(stage, MappedStage) or not stage.atomic:
        return None
    for turn in range(TRIES):
        if turn:
            sleep(PAUSE, transport.stop_requested)
        if transport.stop_requested():
            return None
        found = work_stealing.prospects(job)
        if found.has_waiting and found.has_handed_over:
            continue
        if not found.victims:
            return None
        try:
            claim = _ShardSplitter(stage, job).split(found.victims, worker)
        except _NothingToSplit:
            return None
        except Exception as error:
            # The stage completes without this, and a batch will raise an error of the migration again.
            told = text.line(text.described(error))
            logger.warning("Could not take over a part of another shard of %s: %s", job.key, told)
            if isinstance(error, (DatabaseError, InterfaceError)) and is_transient(error):
                connections[job.db_alias].close_if_unusable_or_obsolete()
                continue
            return None
        if claim is not None:
            logger.info("Took over the second half of a shard of migration %s as shard %s.", job.key, claim.job.shard)
            return claim
    return None


class _NothingToSplit(Exception):
    """No shard has enough rows left to be split."""


class _ShardSplitter:
    """A splitter that measures shards and splits the largest one."""

    def __init__(self, stage: MappedStage, job: Job) -> None:
        self._job = job
        self._at_most = max_workers_of(stage, shards.read_run(job).pace)
        self._queryset = stage.rows(job.db_alias)
        self._keyset = stage.keyset(self._queryset.model)

    def split(self, victims: list[Victim], worker: str) -> Claim | None:
        sizes = [self._size(victim) for victim in victims]
        pairs = zip(sizes, victims, strict=True)
        worth = [size if size >= 2 * MIN_BATCHES * victim.batch_size else 0 for size, victim in pairs]
        largest = max(worth)
        if not largest:
            raise _NothingToSplit
        victim = victims[worth.index(largest)]
        middle = self._middle(victim, largest)
        if middle is None:
            return None
        return work_stealing.split(
            self._job,
            victim,
            middle,
            worker=worker,
            is_ahead=lambda after: self._is_ahead(after, middle, victim),
            at_most=self._at_most,
        )

    def _size(self, victim: Victim) -> int:
        page = self._keyset.page(self._queryset, victim.after, victim.upper)
        counted = self._keyset.rows(page)[:COUNT_UP_TO].count()
        return counted if counted < COUNT_UP_TO else max(counted, dialect_of(page.db).estimated_query_rows(page) or 0)

    def _middle(self, victim: Victim, size: int) -> list[Any] | None:
        """Return the key at which the owner must stop. Try smaller offsets if an estimate exceeds the real size."""
        page = self._keyset.page(self._queryset, victim.after, victim.upper)
        offset = min(size // 2, WALK_UP_TO)
        middle = key_at(self._keyset, page, offset - 1)
        while middle is None and offset > COUNT_UP_TO:
            offset //= 2
            middle = key_at(self._keyset, page, offset - 1)
        return middle

    def _is_ahead(self, after: list[Any] | None, middle: list[Any], victim: Victim) -> bool:
        """Return whether at least a batch of rows is between the cursor and the middle. The owner waits meanwhile."""
        table = all_rows(self._queryset.model, self._queryset.db)
        return key_at(self._keyset, self._keyset.page(table, after, middle), max(victim.batch_size, 1) - 1) is not None
