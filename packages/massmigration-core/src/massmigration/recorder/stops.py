"""Stops that were requested for a part of a run, after which the migration pauses by itself."""

from __future__ import annotations

from functools import partial

from django.db import transaction
from django.db.models import F, Sum

from massmigration import text
from massmigration.dialects import engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.pace import Pace
from massmigration.recorder import events
from massmigration.recorder.shards import Claim, read_run
from massmigration.signals import migration_paused
from massmigration.states import Status

ACTOR = "stop-after"
"""The actor of the pause."""


def check(claim: Claim) -> int | None:
    """Return how many rows may still be processed before the migration pauses; None: any number.

    If it is time to pause, pause the migration and return 0.
    """
    run = read_run(claim.job)
    if not run.is_running or run.pace != claim.pace:
        return None  # the batch will detect it
    left, reached = None, ""
    if run.pace.stop_at_rows is not None:
        done = rows_done(claim.job.db_alias, claim.job.key)
        left = max(run.pace.stop_at_rows - done, 0)
        reached = "" if left else f"{text.counted(done, 'row')} processed"
    if run.pace.stop_at and run.now and run.now >= run.pace.stop_at:
        left, reached = 0, "the time is over"
    if reached:
        _pause(claim, run.pace, reached)
    return left


def rows_done(db_alias: str, key: str) -> int:
    """Return the number of rows that the shards of all stages have processed, skipped or recorded as failed."""
    shards = ShardRecord.objects.using(db_alias).filter(record_id=key, upper__isnull=False)
    return int(shards.aggregate(done=Sum(F("processed") + F("skipped") + F("failed")))["done"] or 0)


def _pause(claim: Claim, pace: Pace, reached: str) -> None:
    """Pause the migration and remove the stop, unless the pace has changed or another worker did so."""
    job = claim.job
    with engine_transaction(job.db_alias):
        record = MigrationRecord.objects.using(job.db_alias).filter(key=job.key, attempt_id=job.attempt_id)
        found = record.select_for_update().first()
        if found is None or Pace.of(found.pace) != pace:
            return
        moved = record.filter(status=Status.RUNNING).update(
            status=Status.PAUSED, pace=pace.without_stop().as_json(), next_send_at=DatabaseNow(), send_count=0
        )
        if not moved:
            return
        events.add(
            job.db_alias,
            job.key,
            "pause",
            attempt_id=job.attempt_id,
            actor=ACTOR,
            from_status=Status.RUNNING,
            to_status=Status.PAUSED,
            detail=f"{reached}; a stop was requested",
        )
        announce = partial(events.announce, migration_paused, job.key, job.db_alias, actor=ACTOR)
        transaction.on_commit(announce, using=job.db_alias)
