"""Asks a stage's throttles how long to wait after a batch."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable

from django.utils.module_loading import import_string

from massmigration.conf import settings
from massmigration.definitions.stages import Stage
from massmigration.jobs import Job
from massmigration.recorder import shards
from massmigration.throttling import Passed

logger = logging.getLogger(__name__)

SHORT = dt.timedelta(seconds=1)
"""Waits up to this are slept through: giving the worker back to the queue costs as much."""


class Throttle:
    """The throttles of a stage and of the settings, for one job."""

    def __init__(self, stage: Stage, job: Job) -> None:
        self._job = job
        self._throttles = [*settings.THROTTLE, *stage.throttle]

    def wait(self, rows: int, seconds: float) -> dt.timedelta:
        """How long to wait after a batch of `rows` that took `seconds`."""
        if not self._throttles:
            return dt.timedelta(0)
        batch = Passed(
            key=self._job.key,
            db_alias=self._job.db_alias,
            rows=rows,
            duration=dt.timedelta(seconds=seconds),
            workers=shards.going(self._job),
        )
        return max(_ask(throttle, batch) for throttle in self._throttles)


def _ask(given: str | Callable[[Passed], dt.timedelta | None], batch: Passed) -> dt.timedelta:
    """What a throttle says; one that raises, or is not there, slows the work down rather than stopping it."""
    try:
        throttle = import_string(given) if isinstance(given, str) else given
        return throttle(batch) or dt.timedelta(0)
    except Exception:
        logger.exception("Throttle %r of migration %s raised.", given, batch.key)
        return SHORT


def sleep(duration: dt.timedelta, stop_requested: Callable[[], bool]) -> None:
    """Sleep, but no longer than until the worker is asked to shut down."""
    until = time.monotonic() + duration.total_seconds()
    while (left := until - time.monotonic()) > 0 and not stop_requested():
        time.sleep(min(left, 0.2))
