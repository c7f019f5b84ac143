"""Writes the records of migrations that run themselves: a beginning and an end, without plan and shards."""

from __future__ import annotations

import uuid

from massmigration.clock import DatabaseNow
from massmigration.models import MigrationRecord
from massmigration.recorder import events
from massmigration.states import ACTIVE, Status
from massmigration.transactions import engine_transaction


def end(db_alias: str, key: str, target: Status, *, attempt_id: uuid.UUID | str | None, error: str = "") -> bool:
    """Move the record to applied or failed, if this attempt (None: whichever there is) is active and runs itself."""
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


def is_running(db_alias: str, key: str, attempt_id: uuid.UUID | str) -> bool:
    """Whether this attempt is the present one, and has not ended."""
    return MigrationRecord.objects.using(db_alias).filter(key=key, attempt_id=attempt_id, status__in=ACTIVE).exists()
