"""Finds work for a job that has run out of it: the far half of the largest shard that another worker is at."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from django.db import DatabaseError, InterfaceError, connections

from massmigration.definitions.stages import MappedStage, Stage
from massmigration.estimates import explained_rows
from massmigration.executor.throttle import sleep
from massmigration.executor.transport import Transport
from massmigration.jobs import Job
from massmigration.recorder import stealing
from massmigration.recorder.shards import Claim
from massmigration.recorder.stealing import Victim
from massmigration.sharding import key_at
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)

MIN_BATCHES = 2
"""Neither half is smaller than this many batches of the shard's owner, as far as can be seen."""

COUNT_UP_TO = 100_000
"""Rows that are counted to find out how large a shard is; beyond, the planner's estimate has to do."""

WALK_UP_TO = 2_000_000
"""Rows that are walked to find a shard's middle, at most; 50 to 100 ms a million."""

TRIES = 4
PAUSE = dt.timedelta(milliseconds=100)
"""Between two tries. A shard is handed over to the next job in less."""


def steal(job: Job, stage: Stage, transport: Transport, worker: str) -> Claim | None:
    """A shard split off one that another worker is at; None when there is nothing to take or to be gained.

    The job's own shard is done. Where a shard of the stage waits for a worker, that work is done first.
    """
    # Without a transaction, the owner may be in the middle of effects that it would have to repeat.
    if not isinstance(stage, MappedStage) or not stage.atomic or not stealing.can_steal(job.db_alias):
        return None
    for turn in range(TRIES):
        if turn:
            sleep(PAUSE, transport.stop_requested)
        if transport.stop_requested():
            return None
        found = stealing.prospects(job)
        if found.has_waiting and found.has_handed_over:
            continue
        if not found.victims:
            return None
        try:
            claim = _Knife(stage, job).cut(found.victims, worker)
        except _NothingToGain:
            return None
        except Exception as error:
            # The stage gets done without this, and what is wrong with it shows in a batch.
            logger.warning("Could not take a part of another shard of %s: %s", job.key, error)
            if isinstance(error, (DatabaseError, InterfaceError)) and is_transient(error):
                connections[job.db_alias].close_if_unusable_or_obsolete()
                continue
            return None
        if claim is not None:
            logger.info("Took the far half of a shard of migration %s as shard %s.", job.key, claim.job.shard)
            return claim
    return None


class _NothingToGain(Exception):
    """What is left of every shard is too little to be shared."""


class _Knife:
    """Measures shards and cuts the largest."""

    def __init__(self, stage: MappedStage, job: Job) -> None:
        self._job = job
        self._queryset = stage.rows(job.db_alias)
        self._keyset = stage.keyset(self._queryset.model)

    def cut(self, victims: list[Victim], worker: str) -> Claim | None:
        sizes = [self._size(victim) for victim in victims]
        pairs = zip(sizes, victims, strict=True)
        worth = [size if size >= 2 * MIN_BATCHES * victim.batch_size else 0 for size, victim in pairs]
        largest = max(worth)
        if not largest:
            raise _NothingToGain
        victim = victims[worth.index(largest)]
        middle = self._middle(victim, largest)
        if middle is None:
            return None
        return stealing.split(
            self._job, victim, middle, worker=worker, is_ahead=lambda after: self._is_ahead(after, middle, victim)
        )

    def _size(self, victim: Victim) -> int:
        page = self._keyset.page(self._queryset, victim.after, victim.upper)
        counted = self._keyset.rows(page)[:COUNT_UP_TO].count()
        return counted if counted < COUNT_UP_TO else max(counted, explained_rows(page) or 0)

    def _middle(self, victim: Victim, size: int) -> list[Any] | None:
        """The key that the owner is to stop at; estimates may reach beyond the end."""
        page = self._keyset.page(self._queryset, victim.after, victim.upper)
        offset = min(size // 2, WALK_UP_TO)
        middle = key_at(self._keyset, page, offset - 1)
        while middle is None and offset > COUNT_UP_TO:
            offset //= 2
            middle = key_at(self._keyset, page, offset - 1)
        return middle

    def _is_ahead(self, after: list[Any] | None, middle: list[Any], victim: Victim) -> bool:
        """Whether a batch of rows of the table lies between the cursor and the middle. The owner waits meanwhile."""
        table = self._queryset.model._base_manager.using(self._queryset.db)
        return key_at(self._keyset, self._keyset.page(table, after, middle), max(victim.batch_size, 1) - 1) is not None
