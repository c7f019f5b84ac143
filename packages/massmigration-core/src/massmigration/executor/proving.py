"""Finds out what a stage has left: objects that came in behind the cursors, or that were changed back."""

from __future__ import annotations

from typing import Any

from massmigration import calling
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.exceptions import BadMigrationFile
from massmigration.executor.work import can_shrink
from massmigration.jobs import Job
from massmigration.recorder import failures, finishing
from massmigration.recorder.finishing import Pass, Proof


def prove(job: Job, stage: Stage) -> tuple[bool, Proof | None]:
    """Whether the stage's present pass has ended, and what is left after it, where that is asked for."""
    if not isinstance(stage, MappedStage):
        return True, None
    ended = finishing.ended_pass(job)
    if ended is None:
        return False, None
    if failures.count(job):
        return True, Proof(pass_number=ended.number, left=0, can_go_on=False, must_be_none=False)
    return True, _proof(stage, job.db_alias, ended)


def _proof(stage: MappedStage, db_alias: str, ended: Pass) -> Proof:
    left = 0 if stage.remaining is None else remaining(stage, db_alias)
    is_open = False
    if (left or stage.remaining is None) and not ended.has_stayed:
        matching = matching_count(stage, db_alias)
        is_open = matching is not None and matching > 0
        if stage.remaining is None:
            left = matching or 0
    return Proof(pass_number=ended.number, left=left, can_go_on=is_open, must_be_none=stage.remaining is not None)


def remaining(stage: MappedStage, db_alias: str) -> int:
    """What the migration's own `remaining` says. Raise `BadMigrationFile` when it is not a number of objects."""
    assert stage.remaining is not None
    found: Any = calling.call(stage.remaining, db_alias)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise BadMigrationFile(f"remaining() of migration {stage.name!r} returned {found!r}; it must return a count.")
    return found


def matching_count(stage: MappedStage, db_alias: str) -> int | None:
    """How many objects the queryset has; None where that says nothing about what is done."""
    queryset = stage.rows(db_alias)
    return queryset.order_by().count() if can_shrink(stage, queryset) else None
