"""Writes migration records: launch, plan, and the moves that operators make."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Mapping

from django.db import IntegrityError
from django.db.models import F, Max, Sum
from django.db.models.functions import Coalesce

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.exceptions import AlreadyLaunched, InvalidTransition
from massmigration.jobs import Job
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import events
from massmigration.sharding import Plan
from massmigration.states import ACTIVE, FINAL, Status, sources_of
from massmigration.transactions import engine_transaction

MOVE_TRIES = 5
"""How often a move is tried again when somebody else moved the record between its read and its UPDATE."""


def get(db_alias: str, key: str) -> MigrationRecord | None:
    """The record; None if the migration was never launched."""
    return MigrationRecord.objects.using(db_alias).filter(key=key).first()


def launch(
    db_alias: str,
    key: str,
    *,
    backend: str,
    actor: str,
    source_hash: str = "",
    is_managed: bool = True,
    delay: dt.timedelta | None = None,
) -> uuid.UUID:
    """Insert the record and return the attempt's id. The primary key admits one of two launches.

    `is_managed`: it waits for its plan; otherwise it runs itself, and does so already.
    `delay`: how long its first job is held back.
    Raise `AlreadyLaunched`, which says in which status the migration is.
    """
    record = MigrationRecord(
        key=key,
        status=Status.QUEUED if is_managed else Status.RUNNING,
        backend=backend,
        is_managed=is_managed,
        launched_by=actor,
        launched_at=DatabaseNow(),
        started_at=None if is_managed else DatabaseNow(),
        source_hash=source_hash,
        next_send_at=DatabaseNow(settings.LEASE + (delay or dt.timedelta(0))) if is_managed else None,
    )
    _insert(db_alias, record, "launch", actor=actor)
    return record.attempt_id


def insert_faked(db_alias: str, key: str, *, actor: str) -> None:
    """Insert a record that says applied, of a migration that was never launched. Raise `AlreadyLaunched` as above."""
    record = MigrationRecord(key=key, status=Status.APPLIED, was_faked=True, finished_at=DatabaseNow())
    _insert(db_alias, record, "fake", actor=actor)


def insert_applied(db_alias: str, reasons: Mapping[str, str], *, actor: str, was_faked: bool = False) -> None:
    """Insert records that say applied, of migrations without a record, and for each an event that says why."""
    if not reasons:
        return
    found = [
        MigrationRecord(key=key, status=Status.APPLIED, was_faked=was_faked, finished_at=DatabaseNow())
        for key in reasons
    ]
    with engine_transaction(db_alias, durable=False):
        MigrationRecord.objects.using(db_alias).bulk_create(found)
        events.add_all(
            db_alias,
            reasons,
            "fake" if was_faked else "applied",
            attempts={record.key: record.attempt_id for record in found},
            actor=actor,
            to_status=Status.APPLIED,
        )


def _insert(db_alias: str, record: MigrationRecord, verb: str, *, actor: str) -> None:
    try:
        with engine_transaction(db_alias, durable=False):
            record.save(using=db_alias, force_insert=True)
            # Of a record that was deleted by hand: no constraint of the database takes them along.
            ShardRecord.objects.using(db_alias).filter(record_id=record.key).delete()
            FailedObject.objects.using(db_alias).filter(record_id=record.key).delete()
            events.add(db_alias, record.key, verb, attempt_id=record.attempt_id, actor=actor, to_status=record.status)
    except IntegrityError:
        other = get(db_alias, record.key) or record
        raise AlreadyLaunched(already_launched(db_alias, other)) from None


def already_launched(db_alias: str, record: MigrationRecord) -> str:
    """Why a migration cannot be launched, and what can be done instead."""
    advice = {
        Status.PAUSED: "Resume it instead.",
        Status.FAILED: "Retry it instead.",
        Status.CANCELLED: "Retry it instead.",
        Status.APPLIED: "There is nothing left to do.",
    }.get(Status(record.status), "Watch it, or pause it." if record.is_managed else "Watch it, or cancel it.")
    return f"Migration {record.key!r} is already {record.status} on database {db_alias!r}. {advice}"


def plan(job: Job, plan: Plan, *, pass_number: int = 0) -> bool:
    """Insert the shards of a stage's pass, unless another worker did, or attempt, stage, pass or status has changed."""
    with engine_transaction(job.db_alias):
        before = _earlier_passes(job)
        won = (
            MigrationRecord.objects.using(job.db_alias)
            .filter(
                key=job.key,
                attempt_id=job.attempt_id,
                stage=job.stage,
                pass_number=pass_number,
                is_planned=False,
                status__in=ACTIVE,
            )
            .update(
                is_planned=True,
                status=Status.RUNNING,
                total=None if plan.total is None else plan.total + before["done"],
                is_total_estimated=plan.is_total_estimated,
                started_at=Coalesce("started_at", DatabaseNow()),
                next_send_at=DatabaseNow(settings.LEASE),
                send_count=0,
            )
        )
        if not won:
            return False
        ShardRecord.objects.using(job.db_alias).bulk_create(
            ShardRecord(
                record_id=job.key,
                attempt_id=job.attempt_id,
                stage=job.stage,
                index=index,
                lower=span.lower,
                upper=span.upper,
                next_send_at=DatabaseNow(settings.LEASE),
            )
            for index, span in enumerate(plan.ranges, start=before["next_index"])
        )
        count = len(plan.ranges)
        again = f", pass {pass_number}" if pass_number else ""
        detail = f"stage {job.stage}{again}: {count} {'shard' if count == 1 else 'shards'}"
        events.add(job.db_alias, job.key, "plan", attempt_id=job.attempt_id, to_status=Status.RUNNING, detail=detail)
    return True


def _earlier_passes(job: Job) -> dict[str, int]:
    """What the stage's shards have done, and the next free index. Nobody adds to them before a plan is won."""
    shards = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)
    return shards.aggregate(
        done=Coalesce(Sum(F("processed") + F("skipped")), 0), next_index=Coalesce(Max("index") + 1, 0)
    )


def is_active(job: Job) -> bool:
    """Whether the job's attempt and stage are queued or running."""
    found = MigrationRecord.objects.using(job.db_alias).filter(key=job.key, attempt_id=job.attempt_id)
    return found.filter(stage=job.stage, status__in=ACTIVE).exists()


def make_due(db_alias: str, key: str, attempt_id: uuid.UUID | str) -> None:
    """Let the first healer send the record's job at once; those after it wait as ever."""
    mine = MigrationRecord.objects.using(db_alias).filter(key=key, attempt_id=attempt_id, send_count=0)
    mine.filter(status__in=ACTIVE).update(next_send_at=DatabaseNow())


def require(db_alias: str, key: str, verb: str, sources: Collection[Status]) -> MigrationRecord:
    """The record, if its status is among `sources`. Raise `InvalidTransition`, which says what was found."""
    record = get(db_alias, key)
    if record is None or record.status not in sources:
        raise InvalidTransition(_refusal(db_alias, key, record, verb, sources))
    if not record.is_managed and verb in ("pause", "resume"):
        raise InvalidTransition(
            f"Cannot {verb} migration {key!r} on database {db_alias!r}: its own launch(), or a backend of the "
            "project's, runs it. It can be cancelled; what it reports after that is ignored."
        )
    return record


def move(db_alias: str, key: str, target: Status, verb: str, *, actor: str) -> MigrationRecord:
    """Move the record to `target` as `TRANSITIONS` allows, and return it as it was before.

    Raise `InvalidTransition` when it cannot get there from where it is.
    """
    for _ in range(MOVE_TRIES):
        record = require(db_alias, key, verb, sources_of(target))
        if _move(db_alias, record, target, verb, actor=actor):
            return record
    raise InvalidTransition(f"Migration {key!r} on database {db_alias!r} keeps changing; try to {verb} it again.")


def resume(db_alias: str, key: str, *, actor: str) -> MigrationRecord:
    """Move a paused record to running where its stage is planned, else to queued. Return it as it was before."""
    record = require(db_alias, key, "resume", {Status.PAUSED})
    target = Status.RUNNING if record.is_planned else Status.QUEUED
    if not _move(db_alias, record, target, "resume", actor=actor):
        raise InvalidTransition(_refusal(db_alias, key, get(db_alias, key), "resume", {Status.PAUSED}))
    return record


def _move(db_alias: str, record: MigrationRecord, target: Status, verb: str, *, actor: str) -> bool:
    """The move itself, if the record is as it was read. Conditions on `is_planned` because a plan may slip in."""
    with engine_transaction(db_alias, durable=False):
        moved = (
            MigrationRecord.objects.using(db_alias)
            .filter(key=record.key, attempt_id=record.attempt_id, status=record.status, is_planned=record.is_planned)
            .update(
                status=target,
                finished_at=DatabaseNow() if target in FINAL else None,
                next_send_at=DatabaseNow(settings.LEASE),
                send_count=0,
            )
        )
        if moved:
            events.add(
                db_alias,
                record.key,
                verb,
                attempt_id=record.attempt_id,
                actor=actor,
                from_status=record.status,
                to_status=target,
            )
    return bool(moved)


def _refusal(db_alias: str, key: str, record: MigrationRecord | None, verb: str, sources: Collection[Status]) -> str:
    allowed = " or ".join(sorted(sources))
    status = record.status if record else "not launched"
    return (
        f"Cannot {verb} migration {key!r} on database {db_alias!r}: it is {status}; "
        f"only one that is {allowed} can be {_DONE[verb]}."
    )


_DONE = {
    "pause": "paused",
    "resume": "resumed",
    "cancel": "cancelled",
    "retry": "retried",
    "restart": "restarted",
    "fake": "faked",
    "forget": "forgotten",
    "resolve": "given resolved objects",
}
