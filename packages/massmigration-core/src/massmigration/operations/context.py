"""What an operation knows of the migration that it is in."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from massmigration.throttling import Passed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """The migration that an operation is in."""

    name: str
    """Its key, for messages."""

    app_label: str
    apps: Any
    """Where models are looked up: the project's, or those of a state of its schema."""

    db_aliases: Sequence[str]
    """The databases that it may run on."""

    atomic: bool = True
    idle_limit: dt.timedelta | None = None
    throttle: Sequence[Callable[[Passed], dt.timedelta | None]] = ()
    batch_size: int | None = None
    on_error: str = "stop"
    max_failures: int | None = 1000
