"""The steps of a migration, as the executor sees them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import Model, QuerySet

from massmigration import calling, fields
from massmigration.keyset import Keyset
from massmigration.querysets import prepare
from massmigration.throttling import Passed

MAX_FAILURES = 1000
MAX_CONSECUTIVE_FAILURES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """What every kind of stage has."""

    name: str
    """The migration's key, for messages."""

    atomic: bool = True
    """Do rows and bookkeeping commit together, in a transaction around each batch?"""

    throttle: Sequence[Callable[[Passed], dt.timedelta | None]] = ()
    """Asked after each batch how long to wait before the next."""

    idle_limit: dt.timedelta | None = None
    """How long a batch may leave its connection idle (default: `MASSMIGRATION_IDLE_LIMIT`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnceStage(Stage):
    """Done by one call."""

    operation: Callable[[str], None]
    is_ending: bool = False
    """Does it only round off the mapped stages before it, so that it has nothing to do where they had no rows?"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MappedStage(Stage):
    """Mapped over a queryset, by exactly one of `operation` and `operation_batch`."""

    get_queryset: Callable[[str], QuerySet[Any]]
    cursor_field: str | None = None
    """The unique field, never null, that batches go by; None: the primary key."""

    operation: Callable[[Model, str], None] | None = None
    operation_batch: Callable[[QuerySet[Any], str], None] | None = None
    is_statement: bool = False
    """Is `operation_batch` known to be no more than one statement, so that batches and shards may be large at once?"""

    update_fields: Sequence[str] | None = None
    """The fields that the engine writes back after `operation`; None: the operation saves."""

    lock_rows: bool = True
    """Are the objects given to `operation` locked in the database until their batch commits?"""

    on_error: str = "stop"
    """`stop` at an object that fails, or `continue` with the next."""

    max_failures: int | None = MAX_FAILURES
    """How many failed objects `continue` bears; None: any number."""

    max_consecutive_failures: int | None = MAX_CONSECUTIVE_FAILURES
    """How many failed objects in a row, within a shard, `continue` bears; None: any number."""

    batch_size: int | None = None
    """Rows in every batch; None: adapts to `MASSMIGRATION_BATCH_DURATION`."""

    catch_up: bool = True
    """Are there further passes over what the queryset still has, if everything done was seen to leave it?"""

    empties: bool = False
    """Is it known that all that is done leaves the queryset, so that nobody has to look?"""

    remaining: Callable[[str], int] | None = None
    """How many objects still need it: the stage is not over before this is 0."""

    def rows(self, db_alias: str, *, is_quiet: bool = False) -> QuerySet[Any]:
        """The queryset, fit to be worked through in batches. Raise `BadQuerySet` if it is not."""
        found = calling.call(self.get_queryset, db_alias)
        return prepare(found, db_alias, name=self.name, may_leave=not self.atomic, is_quiet=is_quiet)

    def keyset(self, model: type[Model]) -> Keyset:
        """What batches of `model` go by. Raise `BadMigrationFile` if `cursor_field` will not do."""
        if self.cursor_field is None:
            return Keyset.of(model)
        return Keyset.by(fields.cursor(model, self.cursor_field, name=self.name))


def only_mapped(stages: Sequence[Stage]) -> list[MappedStage]:
    """The mapped stages, if nothing is to be done where their querysets have no rows; else none."""
    mapped = [stage for stage in stages if isinstance(stage, MappedStage)]
    others = [stage for stage in stages if not isinstance(stage, MappedStage)]
    return mapped if all(isinstance(stage, OnceStage) and stage.is_ending for stage in others) else []
