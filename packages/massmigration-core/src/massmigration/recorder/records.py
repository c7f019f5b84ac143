"""The rows of migrations: launch, plan, transitions, and unmanaged runs."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar

from django.db import IntegrityError
from django.db.models import F, Max, Sum
from django.db.models.functions import Coalesce

from massmigration import text
from massmigration.conf import settings
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import AlreadyLaunched, InvalidTransition
from massmigration.jobs import Job
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.paging.sharding import ShardPlan
from massmigration.recorder import events, failures
from massmigration.recorder.shards import NO_STALL, retried_on_contention
from massmigration.states import ACTIVE, FINAL, Status, sources_of

MOVE_TRIES = 5
"""The number of times a transition is retried if another process moved the record between its read and UPDATE."""


_after_insert: ContextVar[Callable[[MigrationRecord], None]] = ContextVar(
    "massmigration_after_insert", default=lambda record: None
)


@contextlib.contextmanager
def after_insert(call: Callable[[MigrationRecord], None]) -> Iterator[None]:
    """Call a function in the transaction that inserts a record in this block."""
    token = _after_insert.set(call)
    try:
        yield
    finally:
        _after_insert.reset(token)


def get(db_alias: str, key: str) -> MigrationRecord | None:
    """Return the record, or None if the migration was never launched."""
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
    """Insert the record and return the attempt's id. Of two simultaneous launches, the primary key accepts only one.

    `is_managed`: the engine runs it. Otherwise it is running already.
    `delay`: the delay of its first job.
    Raise `AlreadyLaunched` if there is a record.
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
    """Insert an applied record for a migration that was never launched. Raise `AlreadyLaunched` as `launch` does."""
    record = MigrationRecord(key=key, status=Status.APPLIED, was_faked=True, finished_at=DatabaseNow())
    _insert(db_alias, record, "fake", actor=actor)


def insert_applied(db_alias: str, reasons: Mapping[str, str], *, actor: str, was_faked: bool = False) -> None:
    """Insert applied records for migrations without one, each with an event that contains its reason."""
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


@retried_on_contention
def _insert(db_alias: str, record: MigrationRecord, verb: str, *, actor: str) -> None:
    try:
        with engine_transaction(db_alias, durable=False):
            record.save(using=db_alias, force_insert=True)
            # Rows of a record that was deleted by hand remain, because no constraint of the database deletes them.
            ShardRecord.objects.using(db_alias).filter(record_id=record.key).delete()
            failures.delete_all(db_alias, record.key)
            events.add(db_alias, record.key, verb, attempt_id=record.attempt_id, actor=actor, to_status=record.status)
            _after_insert.get()(record)
    except IntegrityError:
        other = get(db_alias, record.key) or record
        raise AlreadyLaunched(already_launched(db_alias, other)) from None


def already_launched(db_alias: str, record: MigrationRecord) -> str:
    """Return why a migration cannot be launched, and what to do instead."""
    advice = {
        Status.WAITING: "Proceed with it instead.",
        Status.PAUSED: "Resume it instead.",
        Status.FAILED: "Retry it instead.",
        Status.CANCELLED: "Retry it instead.",
        Status.APPLIED: "There is nothing left to do.",
    }.get(Status(record.status), "Watch it, or pause it." if record.is_managed else "Watch it, or cancel it.")
    return f"Migration {record.key!r} is already {record.status} on database {db_alias!r}. {advice}"


def plan(job: Job, plan: ShardPlan, *, pass_number: int = 0) -> bool:
    """Insert the shards of a stage's pass, unless another worker did, or attempt, stage, pass or status has changed."""
    if dialect_of(job.db_alias).max_transaction_writes and not (job.stage or pass_number):
        failures.resolve_left(job)
    with engine_transaction(job.db_alias):
        before = _earlier_passes(job)
        records = MigrationRecord.objects.using(job.db_alias)
        status = records.filter(key=job.key).values_list("status", flat=True).first()
        won = records.filter(
            key=job.key,
            attempt_id=job.attempt_id,
            stage=job.stage,
            pass_number=pass_number,
            is_planned=False,
            status__in=ACTIVE,
        ).update(
            is_planned=True,
            status=Status.RUNNING,
            total=None if plan.total is None else plan.total + before["done"],
            is_total_estimated=plan.is_total_estimated,
            started_at=Coalesce("started_at", DatabaseNow()),
            next_send_at=DatabaseNow(settings.LEASE),
            send_count=0,
            **NO_STALL,
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
        detail = f"stage {job.stage}{again}: {text.counted(count, 'shard')}"
        events.add(
            job.db_alias,
            job.key,
            "plan",
            attempt_id=job.attempt_id,
            from_status=status or "",
            to_status=Status.RUNNING,
            detail=detail,
        )
    return True


def wait(job: Job, question: str, *, has_work: bool = False) -> bool:
    """Move the record to waiting, unless its stage has proceeded or attempt, stage or status has changed.

    `has_work`: recovery sends its job to do something meanwhile.
    """
    with engine_transaction(job.db_alias):
        records = MigrationRecord.objects.using(job.db_alias)
        status = records.filter(key=job.key).values_list("status", flat=True).first()
        waits = records.filter(
            key=job.key,
            attempt_id=job.attempt_id,
            stage=job.stage,
            is_planned=False,
            status__in=ACTIVE,
        ).update(
            status=Status.WAITING,
            waiting_since=DatabaseNow(),
            next_send_at=DatabaseNow() if has_work else None,
            send_count=0,
            **NO_STALL,
        )
        if waits:
            events.add(
                job.db_alias,
                job.key,
                "wait",
                attempt_id=job.attempt_id,
                from_status=status or "",
                to_status=Status.WAITING,
                detail=question,
            )
    return bool(waits)


def put_off(job: Job, wait: dt.timedelta) -> None:
    """Let recovery send the job of a waiting record again after `wait`, unless it does not wait there any more."""
    mine = MigrationRecord.objects.using(job.db_alias).filter(key=job.key, attempt_id=job.attempt_id, stage=job.stage)
    mine.filter(status=Status.WAITING).update(next_send_at=DatabaseNow(wait), send_count=0)


def _earlier_passes(job: Job) -> dict[str, int]:
    """Return the rows that earlier passes have processed, and the next free shard index."""
    shards = ShardRecord.objects.using(job.db_alias).filter(record_id=job.key, stage=job.stage)
    return shards.aggregate(
        done=Coalesce(Sum(F("processed") + F("skipped")), 0), next_index=Coalesce(Max("index") + 1, 0)
    )


def is_active(job: Job) -> bool:
    """Return whether the job's attempt and stage are queued or running."""
    found = MigrationRecord.objects.using(job.db_alias).filter(key=job.key, attempt_id=job.attempt_id)
    return found.filter(stage=job.stage, status__in=ACTIVE).exists()


def make_due(db_alias: str, key: str, attempt_id: uuid.UUID | str) -> None:
    """Let the next recovery send the record's job immediately. Later ones wait as usual."""
    mine = MigrationRecord.objects.using(db_alias).filter(key=key, attempt_id=attempt_id, send_count=0)
    mine.filter(status__in=ACTIVE).update(next_send_at=DatabaseNow())


def require(db_alias: str, key: str, verb: str, sources: Collection[Status]) -> MigrationRecord:
    """Return the record if its status is among `sources`. Otherwise raise `InvalidTransition`."""
    record = get(db_alias, key)
    if record is None or record.status not in sources:
        raise InvalidTransition(_refusal(db_alias, key, record, verb, sources))
    if not record.is_managed and verb in ("pause", "resume"):
        raise InvalidTransition(
            f"Cannot {verb} migration {key!r} on database {db_alias!r}: it is unmanaged, so its own launch() or a "
            "custom backend runs it. You can cancel it; later reports are then ignored."
        )
    return record


@retried_on_contention
def move(db_alias: str, key: str, target: Status, verb: str, *, actor: str) -> MigrationRecord:
    """Move the record to `target` as `TRANSITIONS` allows, and return it as it was before.

    Raise `InvalidTransition` if its status does not allow that.
    """
    for _ in range(MOVE_TRIES):
        record = require(db_alias, key, verb, sources_of(target))
        if _move(db_alias, record, target, verb, actor=actor):
            return record
    raise InvalidTransition(f"Migration {key!r} on database {db_alias!r} keeps changing; try to {verb} it again.")


@retried_on_contention
def resume(db_alias: str, key: str, *, actor: str) -> MigrationRecord:
    """Move a paused record to running if its stage is planned, otherwise to queued. Return the old record."""
    record = require(db_alias, key, "resume", {Status.PAUSED})
    target = Status.RUNNING if record.is_planned else Status.QUEUED
    if not _move(db_alias, record, target, "resume", actor=actor):
        raise InvalidTransition(_refusal(db_alias, key, get(db_alias, key), "resume", {Status.PAUSED}))
    return record


@retried_on_contention
def proceed(db_alias: str, record: MigrationRecord, question: str, *, actor: str) -> MigrationRecord:
    """End the stage in which the record waits, as if its work were done. Return the new record.

    The completion check then moves the record to the next stage, or to applied. Raise `InvalidTransition` if the record
    does not wait any more in the attempt and stage of `record`: another operator was faster.
    """
    with engine_transaction(db_alias, durable=False):
        moved = (
            MigrationRecord.objects.using(db_alias)
            .filter(key=record.key, attempt_id=record.attempt_id, stage=record.stage, status=Status.WAITING)
            .update(
                status=Status.RUNNING,
                is_planned=True,
                waiting_since=None,
                next_send_at=DatabaseNow(settings.LEASE),
                send_count=0,
            )
        )
        if moved:
            events.add(
                db_alias,
                record.key,
                "proceed",
                attempt_id=record.attempt_id,
                actor=actor,
                from_status=Status.WAITING,
                to_status=Status.RUNNING,
                detail=question,
            )
    if not moved:
        require(db_alias, record.key, "proceed", {Status.WAITING})
        raise InvalidTransition(proceeded_meanwhile(db_alias, record.key))
    return MigrationRecord.objects.using(db_alias).get(key=record.key)


def proceeded_meanwhile(db_alias: str, key: str) -> str:
    """Return the message for an operator who confirms a question that the migration does not ask any more."""
    return (
        f"Migration {key!r} on database {db_alias!r} has reached another question than the one you confirmed. "
        "Nothing was changed. Read the new question, then confirm that."
    )


def _move(db_alias: str, record: MigrationRecord, target: Status, verb: str, *, actor: str) -> bool:
    """Move the record if it has not changed since it was read. `is_planned` detects a plan in between."""
    with engine_transaction(db_alias, durable=False):
        moved = (
            MigrationRecord.objects.using(db_alias)
            .filter(key=record.key, attempt_id=record.attempt_id, status=record.status, is_planned=record.is_planned)
            .update(
                status=target,
                finished_at=DatabaseNow() if target in FINAL else None,
                waiting_since=None,  # only cancel moves a waiting record by this function
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
    found = f"its status is {record.status}" if record else "it was never launched"
    return f"Cannot {verb} migration {key!r} on database {db_alias!r}: {found}; {verb} requires the status {allowed}."


def end_unmanaged(
    db_alias: str, key: str, target: Status, *, attempt_id: uuid.UUID | str | None, error: str = ""
) -> bool:
    """End an unmanaged run, if this attempt (None: any) is active. Return whether it was."""
    with engine_transaction(db_alias, durable=False):
        active = MigrationRecord.objects.using(db_alias).filter(key=key, is_managed=False, status__in=ACTIVE)
        attempt_id = attempt_id or active.values_list("attempt_id", flat=True).first()
        if attempt_id is None:
            return False
        ended = active.filter(attempt_id=attempt_id).update(status=target, finished_at=DatabaseNow(), last_error=error)
        if ended:
            events.add(
                db_alias,
                key,
                target.value,
                attempt_id=attempt_id,
                from_status=Status.RUNNING,
                to_status=target,
                detail=error,
            )
    return bool(ended)


def is_unmanaged_running(db_alias: str, key: str, attempt_id: uuid.UUID | str) -> bool:
    """Return whether this is the current attempt and it has not ended."""
    return MigrationRecord.objects.using(db_alias).filter(key=key, attempt_id=attempt_id, status__in=ACTIVE).exists()
