"""Chooses how to work at a shard."""

from __future__ import annotations

from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.executor.batch_work import BatchWork
from massmigration.executor.object_work import ObjectWork
from massmigration.executor.redo import RedoWork
from massmigration.executor.work import OnceWork, Work


def work_of(stage: Stage, db_alias: str, *, is_redo: bool = False) -> Work:
    """The work of a stage, on its queryset or on the objects of it that failed."""
    if isinstance(stage, OnceStage):
        return OnceWork(stage, db_alias)
    if not isinstance(stage, MappedStage):
        raise TypeError(f"{stage!r} is no kind of stage that the executor knows.")
    work = BatchWork(stage, db_alias) if stage.operation_batch else ObjectWork(stage, db_alias)
    return RedoWork(work) if is_redo else work
