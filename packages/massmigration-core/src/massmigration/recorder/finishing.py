"""Moves a record on when its work has ended: to another pass, to the next stage, to applied, to failed."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.jobs import Job
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import events
from massmigration.states import ACTIVE, Status
from massmigration.transactions import engine_transaction

MAX_STALLS = 2
"""How many passes may leave no fewer objects than the best one before them."""


class Look(Enum):
    """What a look at a stage found, and did."""

    NOTHING = "nothing to do: not all done, or moved on already"
    ANOTHER_PASS = "all done; another pass over what is left waits for its plan"
    NEXT_STAGE = "all done; the next stage waits for its plan"
    APPLIED = "all done; applied"
    FAILED = "all done, but some objects failed, or are left"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """A pass over a stage's queryset whose shards are all done."""

    number: int
    has_stayed: bool
    """Did an object still match the queryset when it had been done, in this or an earlier pass?"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was found after a pass."""

    pass_number: int
    left: int
    """How many objects still need it."""

    can_go_on: bool
    """Would another pass do nothing twice, and something at all?"""

    must_be_none: bool
    """Is the stage not over before nothing is left?"""


def ended_pass(job: Job) -> Pass | None:
    """The stage's present pass, if all its shards are done; reads the record first, the shards next."""
    number = _running(job).values_list("pass_number", flat=True).first()
    if number is None:
        return None
    found = set(_shards(job).values_list("is_done", "has_stayed").order_by().distinct())
    if any(not is_done for is_done, _ in found):
        return None
    return Pass(number=number, has_stayed=any(has_stayed for _, has_stayed in found))


def look(job: Job, stage_count: int, proof: Proof | None = None) -> Look:
    """Move the record on if every shard of its stage is done.

    A transaction of its own, after the one that marked the last shard done: inside that, two shards that
    finish together would each miss the other. It reads the record first, the shards next and the failed
    objects last; in another order a failure or a new plan slips in between.
    """
    with engine_transaction(job.db_alias):
        mine = _running(job)
        if proof is not None:
            mine = mine.filter(pass_number=proof.pass_number)
        record = mine.first()
        if record is None or _shards(job).filter(is_done=False).exists():
            return Look.NOTHING
        failures = FailedObject.objects.using(job.db_alias).filter(record_id=job.key, resolved_at=None)
        found, fields, detail = _decide(failures.count(), record, stage_count, proof)
        if not mine.update(**fields):
            return Look.NOTHING
        verbs = {Look.NEXT_STAGE: "finish stage", Look.ANOTHER_PASS: "another pass"}
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


def _running(job: Job) -> Any:
    return MigrationRecord.objects.using(job.db_alias).filter(
        key=job.key, attempt_id=job.attempt_id, stage=job.stage, is_planned=True, status=Status.RUNNING
    )


def _shards(job: Job) -> Any:
    return ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)


def _decide(
    failures: int, record: MigrationRecord, stage_count: int, proof: Proof | None
) -> tuple[Look, dict[str, Any], str]:
    """What to do, the record's fields, and the event's detail."""
    if failures:
        return _failed(f"{failures} failed object{'s' if failures > 1 else ''}")
    if proof is not None and proof.left:
        is_better = record.left is None or proof.left < record.left
        stalls = record.stalls + (not is_better)
        if proof.can_go_on and stalls < MAX_STALLS:
            fields: dict[str, Any] = {"is_planned": False, "pass_number": record.pass_number + 1, "stalls": stalls}
            fields |= {"left": proof.left} if is_better else {}
            return Look.ANOTHER_PASS, {**fields, **_due()}, f"stage {record.stage}: {proof.left} objects are left"
        if proof.must_be_none:
            return _failed(_unfinished(proof))
    detail = f"stage {record.stage}" + (f"; its queryset has {proof.left} objects" if proof and proof.left else "")
    if record.stage + 1 < stage_count:
        fields = {"stage": record.stage + 1, "is_planned": False, "total": None, "is_total_estimated": False}
        return Look.NEXT_STAGE, {**fields, "pass_number": 0, "left": None, "stalls": 0, **_due()}, detail
    return Look.APPLIED, {"status": Status.APPLIED, "finished_at": DatabaseNow(), "last_error": ""}, detail


def _due() -> dict[str, Any]:
    return {"next_send_at": DatabaseNow(settings.LEASE), "send_count": 0}


def _failed(error: str) -> tuple[Look, dict[str, Any], str]:
    return Look.FAILED, {"status": Status.FAILED, "finished_at": DatabaseNow(), "last_error": error}, error


def _unfinished(proof: Proof) -> str:
    if proof.can_go_on:
        why = "further passes leave no fewer: perhaps something goes on writing the old form"
    else:
        why = "no further pass can do them: the queryset has none of them, or has objects that are done already"
    return f"remaining() says that {proof.left} objects still need it, and {why}. Mend that, then retry."


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
