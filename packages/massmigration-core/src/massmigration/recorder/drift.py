"""Notes that workers run another version of a migration's file than its attempt began with."""

from __future__ import annotations

from massmigration.jobs import Job
from massmigration.models import MigrationRecord
from massmigration.recorder import events
from massmigration.states import ACTIVE
from massmigration.transactions import engine_transaction


def note(job: Job, source_hash: str) -> bool:
    """Leave one event for each other version. Return whether this is the first that is seen of it."""
    if not source_hash:
        return False
    others = (
        MigrationRecord.objects.using(job.db_alias)
        .filter(key=job.key, attempt_id=job.attempt_id, status__in=ACTIVE)
        .exclude(source_hash__in=("", source_hash))
        .exclude(running_hash=source_hash)
    )
    if not others.exists():
        return False
    with engine_transaction(job.db_alias):
        is_first = bool(others.update(running_hash=source_hash))
        if is_first:
            detail = "A worker runs another version of the file than the attempt began with."
            events.add(job.db_alias, job.key, "code changed", attempt_id=job.attempt_id, detail=detail)
    return is_first
