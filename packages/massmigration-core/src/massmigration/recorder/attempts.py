"""Replaces a record's attempt: retry goes on from the cursors, restart begins again, fake and forget end it.

Whatever replaces an attempt takes all shards from it in the same transaction. That waits for the batches in flight,
so none of them can commit afterwards.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterator
from typing import Any

from django.db import DatabaseError
from django.db.models import F, Max, Q

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.exceptions import BatchInFlight, CannotResolve, InvalidTransition
from massmigration.jobs import Job, JobKind
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import events, failures, records, resolving
from massmigration.states import FINAL, Status
from massmigration.transactions import engine_transaction
from massmigration.transient import is_transient

RETRIED = frozenset({Status.FAILED, Status.CANCELLED})
FAKED = frozenset({Status.PAUSED, Status.FAILED, Status.CANCELLED})
FORGOTTEN = FINAL | {Status.PAUSED}


def retry(db_alias: str, key: str, *, actor: str, source_hash: str = "", choice: Q | None = None) -> MigrationRecord:
    """Begin a new attempt from the cursors of the last, and return the record as it is now.

    `choice`: of the failed objects that cursors have passed, do only these again.
    Raise `InvalidTransition` unless it has failed or was cancelled, `BatchInFlight` when a batch of the
    old attempt takes longer than `MASSMIGRATION_LOCK_WAIT` to end. The same holds for the others below.
    """
    old = records.require(db_alias, key, "retry", RETRIED)
    target = Status.RUNNING if old.is_planned else Status.QUEUED
    detail = "" if choice is None else _counted(db_alias, key, choice)
    with _replacing(old, db_alias, "retry", target, actor=actor, detail=detail, **_begun(actor, source_hash)):
        resolving.leave_out(db_alias, key, choice)
        new = MigrationRecord.objects.using(db_alias).get(key=key)
        _add_redo_shard(db_alias, new)
    return new


def _counted(db_alias: str, key: str, choice: Q) -> str:
    count = resolving.unresolved(db_alias, key).filter(choice).count()
    if not count:
        raise CannotResolve(
            f"None of these failed objects of migration {key!r} on database {db_alias!r} is unresolved any more."
        )
    return f"{count} failed object{'s' if count > 1 else ''}"


def _add_redo_shard(db_alias: str, record: MigrationRecord) -> None:
    """One more shard, of the objects that failed and were passed: claimed, fenced and healed like any other."""
    job = Job(
        kind=JobKind.SHARD, key=record.key, db_alias=db_alias, attempt_id=str(record.attempt_id), stage=record.stage
    )
    shards = ShardRecord.objects.using(db_alias).filter(record_id=record.key, stage=record.stage)
    shards.filter(is_redo=True, is_done=False).update(is_done=True)  # the new one has what is left of it, too
    last = failures.last_passed(job)
    if last is None:
        return
    index = shards.aggregate(Max("index", default=-1))["index__max"] + 1
    ShardRecord.objects.using(db_alias).create(
        record_id=record.key,
        attempt_id=record.attempt_id,
        stage=record.stage,
        index=index,
        lower=[0],
        upper=[last],
        is_redo=True,
        next_send_at=DatabaseNow(settings.LEASE),
    )


def restart(db_alias: str, key: str, *, actor: str, source_hash: str = "") -> MigrationRecord:
    """Begin a new attempt from the start, and return the record as it is now."""
    old = records.require(db_alias, key, "restart", RETRIED)
    fields: dict[str, Any] = {
        "stage": 0,
        "is_planned": False,
        "total": None,
        "is_total_estimated": False,
        "started_at": None,
        "pass_number": 0,
    }
    with _replacing(old, db_alias, "restart", Status.QUEUED, actor=actor, **fields, **_begun(actor, source_hash)):
        _resolve_all(db_alias, key)
        ShardRecord.objects.using(db_alias).filter(record_id=key).delete()
    return MigrationRecord.objects.using(db_alias).get(key=key)


def fake(db_alias: str, key: str, *, actor: str) -> None:
    """Mark it as applied although it has not run to its end. Without a record, insert one."""
    if records.get(db_alias, key) is None:
        records.insert_faked(db_alias, key, actor=actor)
        return
    old = records.require(db_alias, key, "fake", FAKED)
    fields: dict[str, Any] = {"was_faked": True, "finished_at": DatabaseNow(), "last_error": ""}
    with _replacing(old, db_alias, "fake", Status.APPLIED, actor=actor, **fields):
        _resolve_all(db_alias, key)


def forget(
    db_alias: str, key: str, *, actor: str, verb: str = "forget", sources: Collection[Status] = FORGOTTEN
) -> MigrationRecord:
    """Delete the record, as if it had never been launched, and return it as it was. Its events stay.

    `verb`, `sources`: what it is deleted for, and the statuses from which it may be.
    """
    old = records.require(db_alias, key, verb, sources)
    with _replacing(old, db_alias, verb, None, actor=actor):
        ShardRecord.objects.using(db_alias).filter(record_id=key).delete()
        FailedObject.objects.using(db_alias).filter(record_id=key).delete()
        MigrationRecord.objects.using(db_alias).filter(key=key).delete()
    return old


def put_back(db_alias: str, old: MigrationRecord, *, actor: str, error: Exception) -> None:
    """Insert a record that was forgotten to be launched again, where that could not be: unless there is a new one."""
    with engine_transaction(db_alias, durable=False):
        if records.get(db_alias, old.key) is None:
            old.save(using=db_alias, force_insert=True)
            detail = f"It stays {old.status}: {type(error).__name__}: {error}"
            events.add(
                db_alias,
                old.key,
                "not launched",
                attempt_id=old.attempt_id,
                actor=actor,
                to_status=old.status,
                detail=detail,
            )


def _begun(actor: str, source_hash: str) -> dict[str, Any]:
    """The fields of an attempt that begins."""
    return {
        "launched_by": actor,
        "launched_at": DatabaseNow(),
        "finished_at": None,
        "last_error": "",
        "left": None,
        "stalls": 0,
        "source_hash": source_hash,
        "next_send_at": DatabaseNow(settings.LEASE),
        "send_count": 0,
    }


@contextlib.contextmanager
def _replacing(
    old: MigrationRecord,
    db_alias: str,
    verb: str,
    target: Status | None,
    *,
    actor: str,
    detail: str = "",
    **fields: Any,
) -> Iterator[None]:
    """Replace the attempt as it was read, with its shards; the block is a part of the transaction."""
    attempt_id = uuid.uuid4()
    with bounded(db_alias, old.key), engine_transaction(db_alias, lock_wait=settings.LOCK_WAIT):
        replaced = (
            MigrationRecord.objects.using(db_alias)
            .filter(key=old.key, attempt_id=old.attempt_id, status=old.status, is_planned=old.is_planned)
            .update(attempt_id=attempt_id, status=target or old.status, **fields)
        )
        if not replaced:
            raise InvalidTransition(
                f"Migration {old.key!r} on database {db_alias!r} was changed by somebody else meanwhile. "
                f"Look at it again, then {verb} it if it is still needed."
            )
        ShardRecord.objects.using(db_alias).filter(record_id=old.key).update(
            attempt_id=attempt_id,
            fence=F("fence") + 1,
            lease_token=None,
            lease_until=None,
            next_send_at=DatabaseNow(settings.LEASE),
            send_count=0,
            failed=0,  # they are done again, and counted then
            failed_in_a_row=0,
        )
        yield
        events.add(
            db_alias,
            old.key,
            verb,
            attempt_id=attempt_id,
            actor=actor,
            from_status=old.status,
            to_status=target or "",
            detail=detail,
        )


@contextlib.contextmanager
def bounded(db_alias: str, key: str) -> Iterator[None]:
    """Raise `BatchInFlight` where a batch holds what is wanted for longer than can be waited."""
    try:
        yield
    except DatabaseError as error:
        if not is_transient(error):
            raise
        raise BatchInFlight(_who(db_alias, key)) from error


def _resolve_all(db_alias: str, key: str) -> None:
    FailedObject.objects.using(db_alias).filter(record_id=key, resolved_at=None).update(resolved_at=DatabaseNow())


def _who(db_alias: str, key: str) -> str:
    shards = ShardRecord.objects.using(db_alias).filter(record_id=key, lease_token__isnull=False)
    workers = ""
    with contextlib.suppress(DatabaseError):
        workers = ", ".join(sorted({shard.worker for shard in shards}))
    workers = workers or "another process"
    return (
        f"A batch of migration {key!r} on database {db_alias!r} is still being finished by {workers}. "
        "Nothing was changed; try again in a moment."
    )
