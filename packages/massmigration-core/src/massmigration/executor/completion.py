"""Completion of a stage: counts the remaining rows, sends the next plan or fails the migration. Also `--verify`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from massmigration import text
from massmigration.definitions import callables
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, Stage, WaitStage
from massmigration.dialects import dialect_of
from massmigration.dialects.errors import with_advice
from massmigration.documents import conditions
from massmigration.exceptions import BadMigrationFile
from massmigration.executor.errors import OperationRaised, operation_blamed
from massmigration.executor.processors import can_shrink
from massmigration.executor.transport import Transport
from massmigration.jobs import Job, JobKind
from massmigration.models import ShardRecord
from massmigration.recorder import completion, failures, records
from massmigration.recorder.completion import Pass, Remaining, StageEnd
from massmigration.recorder.events import announce
from massmigration.signals import migration_applied, migration_failed

logger = logging.getLogger(__name__)


def check_completion(job: Job, stage: Stage) -> tuple[bool, Remaining | None]:
    """Return whether the stage's current pass has ended, and what is left after it, if that is checked."""
    if not isinstance(stage, MappedStage):
        return True, None
    ended = completion.ended_pass(job)
    if ended is None:
        return False, None
    if failures.count(job):
        return True, Remaining(pass_number=ended.number, left=0, can_continue=False, must_be_none=False)
    return True, _count_after(stage, job.db_alias, ended)


def _count_after(stage: MappedStage, db_alias: str, ended: Pass) -> Remaining:
    left = 0 if stage.remaining is None else count_remaining(stage, db_alias)
    is_open = False
    if (left or stage.remaining is None) and not ended.still_matched:
        matching = count_matching(stage, db_alias)
        is_open = matching is not None and matching > 0
        if stage.remaining is None:
            left = matching or 0
    return Remaining(
        pass_number=ended.number, left=left, can_continue=is_open, must_be_none=stage.remaining is not None
    )


def count_remaining(stage: MappedStage, db_alias: str) -> int:
    """Return the result of the migration's `remaining()`. Raise `BadMigrationFile` if it is not a count."""
    assert stage.remaining is not None
    found: Any = callables.call(stage.remaining, db_alias)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise BadMigrationFile(f"remaining() of migration {stage.name!r} returned {found!r}; it must return a count.")
    return found


def count_matching(stage: MappedStage, db_alias: str) -> int | None:
    """Return the number of objects in the queryset, or None if processed objects stay in it."""
    queryset = stage.rows(db_alias)
    if not can_shrink(stage, queryset):
        return None
    return queryset.order_by().count() if dialect_of(queryset.db).has_sql else conditions.count(queryset)


def finish(job: Job, stages: Sequence[Stage], transport: Transport) -> None:
    """Run the completion check of the job's stage."""
    try:
        # The queryset and `remaining` are users' code.
        with operation_blamed(), callables.exits_refused(f"Migration {job.key!r}"):
            has_ended, remaining = check_completion(job, stages[job.stage])
    except OperationRaised as raised:
        told = "The remaining work of migration %s could not be determined."
        logger.error(told, job.key, exc_info=text.logged(raised.__cause__ or raised))
        fail(job, text.told(raised.error))
        return
    found = completion.complete_stage(job, len(stages), remaining) if has_ended else StageEnd.NOTHING
    if found is StageEnd.NOTHING:
        return
    if found is StageEnd.FAILED:
        record = records.get(job.db_alias, job.key)
        _tell_failed(job, record.last_error if record else found.value)
        return
    told = completion.told_effect(job) if found in (StageEnd.APPLIED, StageEnd.NEXT_STAGE) else ""
    told = f"{found.value}; {told}" if told else found.value
    level = logging.WARNING if told.endswith(", 0 changed") else logging.INFO
    logger.log(level, "Migration %s on database %s, stage %s: %s.", job.key, job.db_alias, job.stage, told)
    if found is StageEnd.APPLIED:
        announce(migration_applied, job.key, job.db_alias)
    if found is StageEnd.ANOTHER_PASS:
        transport.enqueue(dataclasses.replace(job, kind=JobKind.PLAN, shard=0))
    if found is StageEnd.NEXT_STAGE:
        transport.enqueue(dataclasses.replace(job, kind=JobKind.PLAN, stage=job.stage + 1, shard=0))


def fail(job: Job, error: str, *, cause: BaseException | None = None) -> None:
    """Move the record to failed, if this attempt is still active. `cause`: its traceback goes to the log."""
    if completion.fail(job, error):
        _tell_failed(job, error, cause)


def _tell_failed(job: Job, error: str, cause: BaseException | None = None) -> None:
    told = "Migration %s on database %s failed: %s"
    logger.error(told, job.key, job.db_alias, text.line(error), exc_info=cause and text.logged(cause))
    announce(migration_failed, job.key, job.db_alias, error=error)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of `verify`."""

    left: int = 0
    """The number of rows that still need the migration."""

    unknown: str = ""
    """Why the number is not known for some stage."""

    error: str = ""
    """The error that the migration's code raised."""


def verify(migration: BaseMigration, db_alias: str) -> Finding:
    """Count the rows that still need an applied migration."""
    left, unknown = 0, ""
    try:
        for index, stage in enumerate(migration.get_stages()):
            if isinstance(stage, WaitStage):  # the operator has confirmed it
                continue
            found = _verify_stage(migration.key, index, stage, db_alias)
            left += found.left
            unknown = unknown or found.unknown
    except Exception as error:  # the querysets are the users' code
        return Finding(error=text.described(with_advice(error)))
    return Finding(left=left, unknown=unknown)


def _verify_stage(key: str, index: int, stage: Stage, db_alias: str) -> Finding:
    if not isinstance(stage, MappedStage):
        return Finding(unknown="it is done once")
    if stage.remaining is not None:
        return Finding(left=count_remaining(stage, db_alias))
    matching = count_matching(stage, db_alias)
    if matching is None:
        return Finding(unknown="its queryset does not exclude processed objects")
    if not matching:
        return Finding()
    shards = ShardRecord.objects.using(db_alias).filter(record_id=key, stage=index)
    if not shards.filter(processed__gt=0).exists() or shards.filter(still_matched=True).exists():
        return Finding(unknown=f"its queryset has {text.counted(matching, 'row')}, perhaps already processed")
    return Finding(left=matching)
