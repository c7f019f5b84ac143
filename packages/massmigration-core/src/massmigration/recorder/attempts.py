"""Replacement of a record's attempt by retry, restart, fake and forget, and the choice of failed objects.

The transaction that replaces an attempt also takes all its shards. It waits for the running batches, so none of them
can commit afterwards.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Collection, Iterator
from typing import Any

from django.db import DatabaseError
from django.db.models import F, Max, Q, QuerySet

from massmigration import text
from massmigration.conf import settings
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.errors import is_conflict, is_lost_connection, is_transient
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import BatchInFlight, CannotResolve, InvalidTransition
from massmigration.jobs import JobKind
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder import events, failures, records
from massmigration.recorder.shards import NO_STALL, retried_on_contention
from massmigration.states import FINAL, Status

RETRIED = frozenset({Status.FAILED, Status.CANCELLED})
FAKED = frozenset({Status.WAITING, Status.PAUSED, Status.FAILED, Status.CANCELLED})
FORGOTTEN = FINAL | {Status.WAITING, Status.PAUSED}


@retried_on_contention
def retry(db_alias: str, key: str, *, actor: str, source_hash: str = "", choice: Q | None = None) -> MigrationRecord:
    """Start a new attempt from the cursors of the last one. Return the new record.

    `choice`: process only these of the failed objects behind the cursors again.
    Raise `InvalidTransition` unless it has failed or was cancelled, `BatchInFlight` when a batch of the
    old attempt takes longer than `MASSMIGRATION_LOCK_WAIT` to end. The other functions raise the same.
    """
    old = records.require(db_alias, key, "retry", RETRIED)
    target = Status.RUNNING if old.is_planned else Status.QUEUED
    detail = "" if choice is None else _counted(db_alias, key, choice)
    # A transaction of documents cannot write, and should not read, any number of them.
    limits_writes = dialect_of(db_alias).max_transaction_writes is not None
    last = _last_to_retry(db_alias, old, choice) if limits_writes else None
    with _replacing(old, db_alias, "retry", target, actor=actor, detail=detail, **_begun(actor, source_hash)):
        if not limits_writes:
            last = _last_to_retry(db_alias, old, choice)
        new = MigrationRecord.objects.using(db_alias).get(key=key)
        _add_retry_shard(db_alias, new, last)
    return new


def _last_to_retry(db_alias: str, record: MigrationRecord, choice: Q | None) -> int | None:
    """Exclude the failed objects that are not processed again. Return the id of the last one that is."""
    leave_out(db_alias, record.key, choice)
    return failures.last_passed(record.job(JobKind.SHARD))


def _counted(db_alias: str, key: str, choice: Q) -> str:
    count = unresolved(db_alias, key).filter(choice).count()
    if not count:
        raise CannotResolve(
            f"None of these failed objects of migration {key!r} on database {db_alias!r} is unresolved any more."
        )
    return text.counted(count, "failed object")


def _add_retry_shard(db_alias: str, record: MigrationRecord, last: int | None) -> None:
    """Add a retry shard with the failed objects behind the cursors. It is claimed, fenced and recovered like others."""
    shards = ShardRecord.objects.using(db_alias).filter(record_id=record.key, stage=record.stage)
    shards.filter(is_retry=True, is_done=False).update(is_done=True)  # the new one contains the rest of it
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
        is_retry=True,
        next_send_at=DatabaseNow(settings.LEASE),
    )


@retried_on_contention
def restart(db_alias: str, key: str, *, actor: str, source_hash: str = "") -> MigrationRecord:
    """Start a new attempt from the first stage. Return the new record."""
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
        failures.resolve_all(db_alias, key)
        ShardRecord.objects.using(db_alias).filter(record_id=key).delete()
    return MigrationRecord.objects.using(db_alias).get(key=key)


@retried_on_contention
def fake(db_alias: str, key: str, *, actor: str) -> None:
    """Mark the migration as applied without running it to its end. Insert a record if there is none."""
    if records.get(db_alias, key) is None:
        records.insert_faked(db_alias, key, actor=actor)
        return
    old = records.require(db_alias, key, "fake", FAKED)
    fields: dict[str, Any] = {
        "was_faked": True,
        "finished_at": DatabaseNow(),
        "last_error": "",
        "waiting_since": None,
    }
    with _replacing(old, db_alias, "fake", Status.APPLIED, actor=actor, **fields):
        failures.resolve_all(db_alias, key)


@retried_on_contention
def forget(
    db_alias: str, key: str, *, actor: str, verb: str = "forget", sources: Collection[Status] = FORGOTTEN
) -> MigrationRecord:
    """Delete the record, as if the migration had never been launched. Return the old record. Its events are kept.

    `verb`, `sources`: the action that deletes it, and the statuses in which that is allowed.
    """
    old = records.require(db_alias, key, verb, sources)
    with _replacing(old, db_alias, verb, None, actor=actor):
        ShardRecord.objects.using(db_alias).filter(record_id=key).delete()
        failures.delete_all(db_alias, key)
        MigrationRecord.objects.using(db_alias).filter(key=key).delete()
    return old


def restore(db_alias: str, old: MigrationRecord, *, actor: str, error: Exception) -> None:
    """Insert a forgotten record again because its new launch failed. Do nothing if there is a new record."""
    with engine_transaction(db_alias, durable=False):
        if records.get(db_alias, old.key) is None:
            old.save(using=db_alias, force_insert=True)
            detail = f"It stays {old.status}: {text.described(error)}"
            events.add(
                db_alias,
                old.key,
                "not launched",
                attempt_id=old.attempt_id,
                actor=actor,
                from_status=old.status,
                to_status=old.status,
                detail=detail,
            )


def _begun(actor: str, source_hash: str) -> dict[str, Any]:
    """Return the fields of a new attempt."""
    return {
        "launched_by": actor,
        "launched_at": DatabaseNow(),
        "finished_at": None,
        "waiting_since": None,
        "last_error": "",
        **NO_STALL,
        "fewest_remaining": None,
        "stalled_passes": 0,
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
    """Replace the attempt that was read, and take its shards. The block runs in the same transaction."""
    attempt_id = uuid.uuid4()
    with lock_wait_bounded(db_alias, old.key), engine_transaction(db_alias, lock_wait=settings.LOCK_WAIT):
        replaced = (
            MigrationRecord.objects.using(db_alias)
            .filter(key=old.key, attempt_id=old.attempt_id, status=old.status, is_planned=old.is_planned)
            .update(attempt_id=attempt_id, status=target or old.status, **fields)
        )
        if not replaced:
            raise InvalidTransition(
                f"Migration {old.key!r} on database {db_alias!r} was changed by another user or process meanwhile. "
                f"Check its status, then {verb} it if this is still necessary."
            )
        ShardRecord.objects.using(db_alias).filter(record_id=old.key).update(
            attempt_id=attempt_id,
            fence=F("fence") + 1,
            lease_token=None,
            lease_until=None,
            next_send_at=DatabaseNow(settings.LEASE),
            send_count=0,
            ticket=None,
            failed=0,  # they are counted when they are processed again
            consecutive_failures=0,
            **NO_STALL,
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
def lock_wait_bounded(db_alias: str, key: str) -> Iterator[None]:
    """Raise `BatchInFlight` if a batch keeps its lock for longer than the lock wait, or a transient error repeats."""
    try:
        yield
    except DatabaseError as error:
        if not is_transient(error):
            raise
        raise BatchInFlight(_why_not_changed(db_alias, key, error)) from error


def _why_not_changed(db_alias: str, key: str, error: DatabaseError) -> str:
    told = text.safe(error).strip()
    if is_lost_connection(error):
        return (
            f"The connection to database {db_alias!r} was lost before it had confirmed the change of migration {key!r} "
            f"({told}). Check the migration's status, and repeat the action if necessary."
        )
    if is_conflict(error):
        return (
            f"The change of migration {key!r} was rolled back each time, because of other transactions on database "
            f"{db_alias!r} ({told}). Nothing was changed; try again in a moment."
        )
    return _batch_in_flight_message(db_alias, key)


def _batch_in_flight_message(db_alias: str, key: str) -> str:
    shards = ShardRecord.objects.using(db_alias).filter(record_id=key, lease_token__isnull=False)
    workers = ""
    with contextlib.suppress(DatabaseError):
        workers = ", ".join(sorted({shard.worker for shard in shards}))
    workers = workers or "another process"
    return (
        f"A batch of migration {key!r} on database {db_alias!r} has not ended yet (worker: {workers}). "
        "Nothing was changed; try again in a moment."
    )


RESOLVABLE = frozenset({Status.PAUSED, Status.FAILED, Status.CANCELLED})
MAX_IDS = 500
"""Failed objects that can be named one by one; more are a group, or all."""


MAX_ID = 2**63 - 1


def chosen(db_alias: str, key: str, ids: Collection[int] | None, fingerprint: str | None) -> Q:
    """Return the condition for these ids, this group, or all. Raise `CannotResolve` for any other id."""
    condition = Q() if fingerprint is None else Q(fingerprint=fingerprint)
    if ids is None:
        return condition
    if len(ids) > MAX_IDS:
        raise CannotResolve(
            f"Found {len(ids)} ids of failed objects; allowed: {MAX_IDS}. Select objects by their cause instead."
        )
    wrong: list[Any] = [each for each in ids if type(each) is not int or not 0 <= each <= MAX_ID]
    if wrong:
        shown = repr(wrong[0][:50]) if isinstance(wrong[0], str) else f"a value of type {type(wrong[0]).__name__}"
        raise CannotResolve(f"Found {shown}, which is not the id of a failed object. Nothing was changed.")
    condition &= Q(pk__in=sorted(set(ids)))
    found = unresolved(db_alias, key).filter(condition).count()
    if 0 < found < len(set(ids)):
        raise CannotResolve(
            f"Of these {len(set(ids))} failed objects, only {found} belong to migration {key!r} on database "
            f"{db_alias!r} and are unresolved. Nothing was changed. List the failed objects again."
        )
    return condition


def unresolved(db_alias: str, key: str) -> QuerySet[FailedObject]:
    """Return the unresolved failed objects of a migration."""
    return FailedObject.objects.using(db_alias).filter(record_id=key, resolved_at=None)


def leave_out(db_alias: str, key: str, choice: Q | None) -> None:
    """Exclude all but the chosen failed objects (None: exclude none) from the new attempt."""
    mine = unresolved(db_alias, key)
    failures.update_in_pages(mine.filter(is_excluded=True), is_excluded=False)
    if choice:  # excluding an empty condition would exclude nothing
        failures.update_in_pages(mine.exclude(choice), is_excluded=True)


@retried_on_contention
def resolve(db_alias: str, key: str, choice: Q, *, reason: str, actor: str) -> int:
    """Mark the chosen objects as resolved. Return how many. Raise `CannotResolve` if there are none, or one blocks."""
    record = records.require(db_alias, key, "resolve", RESOLVABLE)
    # A transaction of documents cannot write any number of them.
    limits_writes = dialect_of(db_alias).max_transaction_writes is not None
    with contextlib.nullcontext() if limits_writes else engine_transaction(db_alias):
        found = unresolved(db_alias, key).filter(choice)
        if found.filter(is_behind_cursor=False).exists():
            raise CannotResolve(
                f"Migration {key!r} on database {db_alias!r} stopped before one of these objects, and a retry starts "
                "at it. Fix the object, or change the operation so that it skips the object."
            )
        count = failures.update_in_pages(found, resolved_at=DatabaseNow(), resolution=reason, is_excluded=False)
        if not count:
            raise CannotResolve(
                f"None of these failed objects of migration {key!r} on database {db_alias!r} is unresolved any more."
            )
        detail = f"{text.counted(count, 'failed object')}: {reason}"
        events.add(db_alias, key, "resolve", attempt_id=record.attempt_id, actor=actor, detail=detail)
    return count
