"""Replaces a record's attempt: retry goes on from the cursors, restart begins again."""

from __future__ import annotations

import uuid

from django.db import DatabaseError
from django.db.models import F

from massmigration.clock import DatabaseNow
from massmigration.conf import settings
from massmigration.exceptions import BatchInFlight, InvalidTransition
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.recorder import events, records
from massmigration.states import Status
from massmigration.transactions import engine_transaction
from massmigration.transient import is_transient

REPLACEABLE = frozenset({Status.FAILED, Status.CANCELLED})


def retry(db_alias: str, key: str, *, actor: str, source_hash: str = "") -> MigrationRecord:
    """Begin a new attempt from the cursors of the last, and return the record as it is now.

    Raise `InvalidTransition` unless it has failed or was cancelled, `BatchInFlight` when a batch of the
    old attempt takes longer than `MASSMIGRATION_LOCK_WAIT` to end.
    """
    record = records.get(db_alias, key)
    if record is None or record.status not in REPLACEABLE:
        status = record.status if record else "not launched"
        raise InvalidTransition(
            f"Cannot retry migration {key!r} on database {db_alias!r}: it is {status}; "
            "only one that is failed or cancelled can be retried."
        )
    try:
        return _replace(db_alias, record, actor=actor, source_hash=source_hash)
    except DatabaseError as error:
        if not is_transient(error):
            raise
        raise BatchInFlight(_who(db_alias, key)) from error


def _replace(db_alias: str, old: MigrationRecord, *, actor: str, source_hash: str) -> MigrationRecord:
    attempt_id = uuid.uuid4()
    target = Status.RUNNING if old.is_planned else Status.QUEUED
    with engine_transaction(db_alias, lock_wait=settings.LOCK_WAIT):
        replaced = (
            MigrationRecord.objects.using(db_alias)
            .filter(key=old.key, attempt_id=old.attempt_id, status=old.status, is_planned=old.is_planned)
            .update(
                attempt_id=attempt_id,
                status=target,
                launched_by=actor,
                launched_at=DatabaseNow(),
                finished_at=None,
                last_error="",
                source_hash=source_hash,
                next_send_at=DatabaseNow(settings.LEASE),
                send_count=0,
            )
        )
        if not replaced:
            raise InvalidTransition(f"Migration {old.key!r} on database {db_alias!r} was changed by somebody else.")
        # Waits for the batches in flight; none of them can commit afterwards.
        ShardRecord.objects.using(db_alias).filter(record_id=old.key).update(
            attempt_id=attempt_id,
            fence=F("fence") + 1,
            lease_token=None,
            lease_until=None,
            next_send_at=DatabaseNow(settings.LEASE),
            send_count=0,
        )
        events.add(
            db_alias, old.key, "retry", attempt_id=attempt_id, actor=actor, from_status=old.status, to_status=target
        )
    return MigrationRecord.objects.using(db_alias).get(key=old.key)


def _who(db_alias: str, key: str) -> str:
    shards = ShardRecord.objects.using(db_alias).filter(record_id=key, lease_token__isnull=False)
    workers = ", ".join(sorted({shard.worker for shard in shards})) or "another process"
    return (
        f"A batch of migration {key!r} on database {db_alias!r} is still being finished by {workers}. "
        "Nothing was changed; try again in a moment."
    )
