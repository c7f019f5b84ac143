"""Moves a record on when its work has ended: to the next stage, to applied, to failed."""

from __future__ import annotations

from enum import Enum
from typing import Any

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.jobs import Job
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import events
from massmigration.states import ACTIVE, Status
from massmigration.transactions import engine_transaction


class Look(Enum):
    """What a look at a stage found, and did."""

    NOTHING = "nothing to do: not all done, or moved on already"
    NEXT_STAGE = "all done; the next stage waits for its plan"
    APPLIED = "all done; applied"
    FAILED = "all done, but some objects failed"


def look(job: Job, stage_count: int) -> Look:
    """Move the record on if every shard of its stage is done.

    A transaction of its own, after the one that marked the last shard done: inside that, two shards that
    finish together would each miss the other. It reads the record first, the shards next and the failed
    objects last; in another order a failure or a new plan slips in between.
    """
    with engine_transaction(job.db_alias):
        mine = MigrationRecord.objects.using(job.db_alias).filter(
            key=job.key, attempt_id=job.attempt_id, stage=job.stage, is_planned=True, status=Status.RUNNING
        )
        if not mine.exists():
            return Look.NOTHING
        shards = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)
        if shards.filter(is_done=False).exists():
            return Look.NOTHING
        failures = FailedObject.objects.using(job.db_alias).filter(record_id=job.key, resolved_at=None)
        found, fields = _decide(failures.count(), job.stage, stage_count)
        if not mine.update(**fields):
            return Look.NOTHING
        events.add(
            job.db_alias,
            job.key,
            "finish stage" if found is Look.NEXT_STAGE else found.name.lower(),
            attempt_id=job.attempt_id,
            from_status=Status.RUNNING,
            to_status=fields.get("status", Status.RUNNING),
            detail=fields.get("last_error", f"stage {job.stage}"),
        )
    return found


def _decide(failures: int, stage: int, stage_count: int) -> tuple[Look, dict[str, Any]]:
    if failures:
        error = f"{failures} failed object{'s' if failures > 1 else ''}"
        return Look.FAILED, {"status": Status.FAILED, "finished_at": DatabaseNow(), "last_error": error}
    if stage + 1 < stage_count:
        fields = {"stage": stage + 1, "is_planned": False, "total": None, "is_total_estimated": False}
        return Look.NEXT_STAGE, {**fields, "next_send_at": DatabaseNow(settings.LEASE), "send_count": 0}
    return Look.APPLIED, {"status": Status.APPLIED, "finished_at": DatabaseNow(), "last_error": ""}


def fail(job: Job, error: str) -> bool:
    """Move the record to failed, if this attempt is still active. Its own transaction, after the batch's."""
    with engine_transaction(job.db_alias):
        mine = MigrationRecord.objects.using(job.db_alias).filter(
            key=job.key, attempt_id=job.attempt_id, stage=job.stage, status__in=ACTIVE
        )
        status = mine.values_list("status", flat=True).first() or ""
        failed = mine.update(status=Status.FAILED, finished_at=DatabaseNow(), last_error=error)
        if failed:
            events.add(
                job.db_alias,
                job.key,
                "failed",
                attempt_id=job.attempt_id,
                from_status=status,
                to_status=Status.FAILED,
                detail=error,
            )
    return bool(failed)
