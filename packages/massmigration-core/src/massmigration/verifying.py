"""Looks again at a migration that is applied: whether rows have come since that need it."""

from __future__ import annotations

import dataclasses

from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.executor.proving import matching_count, remaining
from massmigration.models import ShardRecord


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a look found. It cannot be known of every migration."""

    left: int = 0
    """How many rows need it."""

    unknown: str = ""
    """Why that cannot be said of some of them."""

    error: str = ""
    """What the migration's own code raised."""


def verify(migration: BaseMigration, db_alias: str) -> Finding:
    """How many rows need a migration that is applied on this database."""
    left, unknown = 0, ""
    try:
        for index, stage in enumerate(migration.get_stages()):
            found = _look(migration.key, index, stage, db_alias)
            left += found.left
            unknown = unknown or found.unknown
    except Exception as error:  # the querysets are the users' code
        return Finding(error=f"{type(error).__name__}: {str(error).strip()}")
    return Finding(left=left, unknown=unknown)


def _look(key: str, index: int, stage: Stage, db_alias: str) -> Finding:
    if not isinstance(stage, MappedStage):
        return Finding(unknown="it is done once")
    if stage.remaining is not None:
        return Finding(left=remaining(stage, db_alias))
    matching = matching_count(stage, db_alias)
    if matching is None:
        return Finding(unknown="its queryset does not leave out what is done")
    if not matching:
        return Finding()
    shards = ShardRecord.objects.using(db_alias).filter(record_id=key, stage=index)
    if not shards.filter(processed__gt=0).exists() or shards.filter(has_stayed=True).exists():
        return Finding(unknown=f"its queryset has {matching} rows, which may be done or not")
    return Finding(left=matching)
