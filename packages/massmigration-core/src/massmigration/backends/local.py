"""Runs jobs in threads of this very process. Nothing to install; jobs end with the process, and are healed."""

from __future__ import annotations

import atexit
import datetime as dt
import logging
from typing import Any

from django.db import connections

from massmigration.backends.base import BackendHealth, BaseBackend
from massmigration.backends.pool import Pool
from massmigration.conf import settings
from massmigration.exceptions import BadPayload

logger = logging.getLogger(__name__)

TRIES = 5
"""How often a job that ends in an unforeseen error is run again."""

EXIT_WAIT = 5.0
"""Seconds that a process which ends waits for the batches in its threads."""

pool = Pool(size=2)
"""One for the process: backends are made anew when settings change."""

atexit.register(pool.stop, EXIT_WAIT)


class LocalBackend(BaseBackend):
    """Options: `workers`, the number of threads (default 2)."""

    supports_delay = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.workers = int(options.get("workers", 2))

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        self._put(payload, delay.total_seconds() if delay else 0, TRIES)

    def stop_requested(self) -> bool:
        return pool.is_stopping

    def health(self) -> BackendHealth:
        return BackendHealth(workers=self.workers, queued=pool.waiting, details={"runs in": "this process"})

    def _put(self, payload: str, delay: float, tries: int) -> None:
        pool.size = self.workers
        pool.put(lambda: self._run(payload, tries), delay)

    def _run(self, payload: str, tries: int) -> None:
        try:
            self.perform(payload)
        except BadPayload:
            logger.exception("Dropped what is no job.")
        except BaseException:
            logger.exception("A job ended in an unforeseen error: %s", payload)
            if tries > 1:
                self._put(payload, settings.LEASE.total_seconds() / 4, tries - 1)
        finally:
            connections.close_all()
