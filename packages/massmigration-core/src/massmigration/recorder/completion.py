"""Completion of a record: the next pass, the next stage, applied or failed, after its shards are done."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

from massmigration import text
from massmigration.conf import settings
from massmigration.dialects import engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import events
from massmigration.recorder.shards import NO_STALL
from massmigration.states import ACTIVE, Status

MAX_STALLS = 2
"""The number of passes that may fail to lower the number of remaining objects."""


class StageEnd(Enum):
    """The result of a completion check."""

    NOTHING = "nothing to do: not all shards are done, or the stage was completed before"
    ANOTHER_PASS = "all shards are done; another pass over the remaining objects must be planned"
    NEXT_STAGE = "all shards are done; the next stage must be planned"
    APPLIED = "all shards are done; the migration is applied"
    FAILED = "all shards are done, but objects failed or remain"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A completed pass over a stage's queryset: all its shards are done."""

    number: int
    still_matched: bool
    """Whether a processed object still matched the queryset, in this or an earlier pass."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """The remaining work after a pass."""

    pass_number: int
    left: int
    """The number of objects that still need the migration."""

    can_continue: bool
    """Whether a further pass is safe and would find an object."""

    must_be_none: bool
    """Whether the stage can end only if no objects remain."""


def ended_pass(job: Job) -> Pass | None:
    """Return the stage's current pass if all its shards are done. The record must be read before the shards."""
    number = _running(job).values_list("pass_number", flat=True).first()
    if number is None:
        return None
    found = set(_shards(job).values_list("is_done", "still_matched").order_by().distinct())
    if any(not is_done for is_done, _ in found):
        return None
    return Pass(number=number, still_matched=any(still_matched for _, still_matched in found))


def complete_stage(job: Job, stage_count: int, remaining: Remaining | None = None) -> StageEnd:
    """Move the record to its next state if every shard of its stage is done.

    This is a separate transaction after the one that marked the last shard as done: inside that one, two shards
    that finish together would each miss the other. It reads the record first, then the shards, then the failed
    objects. In another order, a failure or a new plan could slip in between.
    """
    with engine_transaction(job.db_alias):
        mine = _running(job)
        if remaining is not None:
            mine = mine.filter(pass_number=remaining.pass_number)
        record = mine.first()
        if record is None or _shards(job).filter(is_done=False).exists():
            return StageEnd.NOTHING
        failures = FailedObject.objects.using(job.db_alias).filter(record_id=job.key, resolved_at=None)
        found, fields, detail = _decide(failures.count(), record, stage_count, remaining)
        if not mine.update(**fields, **NO_STALL):
            return StageEnd.NOTHING
        told = told_effect(job)
        detail += f"; {told}" if told and found is not StageEnd.FAILED else ""
        verbs = {StageEnd.NEXT_STAGE: "finish stage", StageEnd.ANOTHER_PASS: "another pass"}
        events.add(
            job.db_alias,
            job.key,
            verbs.get(found, found.name.lower()),
            attempt_id=job.attempt_id,
            from_status=Status.RUNNING,
            to_status=fields.get("status", Status.RUNNING),
            detail=detail,
        )
    return found


def told_effect(job: Job) -> str:
    """Return how many rows of the stage were processed and changed; empty if equal or not known."""
    rows = list(_shards(job).filter(upper__isnull=False).values_list("processed", "changed"))
    changed = [count for _, count in rows]
    processed = sum(count for count, _ in rows)
    if None in changed or sum(changed) == processed:
        return ""
    return f"{text.counted(processed, 'row')} processed, {text.number(sum(changed))} changed"


def _running(job: Job) -> Any:
    return MigrationRecord.objects.using(job.db_alias).filter(
        key=job.key, attempt_id=job.attempt_id, stage=job.stage, is_planned=True, status=Status.RUNNING
    )


def _shards(job: Job) -> Any:
    return ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)


def _decide(
    failures: int, record: MigrationRecord, stage_count: int, remaining: Remaining | None
) -> tuple[StageEnd, dict[str, Any], str]:
    """Return the result, the record's new fields, and the event's detail."""
    if failures:
        return _failed(text.counted(failures, "failed object"))
    if remaining is not None and remaining.left:
        is_better = record.fewest_remaining is None or remaining.left < record.fewest_remaining
        stalls = record.stalled_passes + (not is_better)
        if remaining.can_continue and stalls < MAX_STALLS:
            fields: dict[str, Any] = {
                "is_planned": False,
                "pass_number": record.pass_number + 1,
                "stalled_passes": stalls,
            }
            fields |= {"fewest_remaining": remaining.left} if is_better else {}
            return (
                StageEnd.ANOTHER_PASS,
                {**fields, **_due()},
                f"stage {record.stage}: {text.counted(remaining.left, 'remaining object')}",
            )
        if remaining.must_be_none:
            return _failed(_unfinished(remaining))
    detail = f"stage {record.stage}" + (
        f"; its queryset has {text.counted(remaining.left, 'object')}" if remaining and remaining.left else ""
    )
    if record.stage + 1 < stage_count:
        fields = {"stage": record.stage + 1, "is_planned": False, "total": None, "is_total_estimated": False}
        return (
            StageEnd.NEXT_STAGE,
            {**fields, "pass_number": 0, "fewest_remaining": None, "stalled_passes": 0, **_due()},
            detail,
        )
    return StageEnd.APPLIED, {"status": Status.APPLIED, "finished_at": DatabaseNow(), "last_error": ""}, detail


def _due() -> dict[str, Any]:
    return {"next_send_at": DatabaseNow(settings.LEASE), "send_count": 0}


def _failed(error: str) -> tuple[StageEnd, dict[str, Any], str]:
    return StageEnd.FAILED, {"status": Status.FAILED, "finished_at": DatabaseNow(), "last_error": error}, error


def _unfinished(remaining: Remaining) -> str:
    if remaining.can_continue:
        return (
            f"remaining() still returns {remaining.left}, and the last passes did not lower it. Other code is probably "
            "still writing rows in the old form. Fix that code, then retry."
        )
    return (
        f"remaining() still returns {remaining.left}, and no further pass can process them: the queryset does not "
        "contain them, or it also contains objects that are already processed. Fix remaining() or the queryset, then "
        "retry."
    )


def fail(job: Job, error: str) -> bool:
    """Move the record to failed, if this attempt is still active. Call it after the batch's transaction."""
    error = text.clean(error, text.MAX_LINE)
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
