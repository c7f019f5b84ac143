"""The steps of a migration, as the executor sees them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import Model, QuerySet

from massmigration.throttling import Passed


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MappedStage(Stage):
    """Mapped over a queryset, by exactly one of `operation` and `operation_batch`."""

    get_queryset: Callable[[str], QuerySet[Any]]
    operation: Callable[[Model, str], None] | None = None
    operation_batch: Callable[[QuerySet[Any], str], None] | None = None

    update_fields: Sequence[str] | None = None
    """The fields that the engine writes back after `operation`; None: the operation saves."""

    lock_rows: bool = True
    """Are the objects given to `operation` locked in the database until their batch commits?"""

    on_error: str = "stop"
    """`stop` at an object that fails, or `continue` with the next."""

    max_failures: int | None = None
    """How many failed objects `continue` bears; None: any number."""

    batch_size: int | None = None
    """Rows in every batch; None: adapts to `MASSMIGRATION_BATCH_DURATION`."""
