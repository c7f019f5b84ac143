"""A backend that runs jobs in a pool of threads in this process.

It needs no other software. Jobs in the pool are lost when the process ends; recovery sends them again.
"""

from __future__ import annotations

import atexit
import datetime as dt
import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import connections

from massmigration import text
from massmigration.backends import worker
from massmigration.backends.base import BackendHealth, BaseBackend
from massmigration.conf import settings
from massmigration.exceptions import BadPayload

logger = logging.getLogger(__name__)


class Pool:
    """A pool of daemon threads, which are started when they are first needed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_stopping = False
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        """Reset the pool, for a forked process too.

        A forked process has no threads, the waiting calls belong to its parent, and a held lock would stay locked.
        """
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = 0
        self._threads: list[threading.Thread] = []

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a thread or for the end of their delay."""
        with self._changed:
            return len(self._waiting)

    def put(self, call: Callable[[], None], delay: float = 0) -> None:
        """Run `call` in a thread after at least `delay` seconds."""
        with self._changed:
            heapq.heappush(self._waiting, (time.monotonic() + delay, next(self._order), call))
            if len(self._threads) < self.size and len(self._waiting) + self._running > len(self._threads):
                name = f"massmigration-{len(self._threads) + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no call waits or runs. Return False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._running, timeout)

    def wait_until_quiet(self, timeout: float | None = None) -> bool:
        """Wait until no call runs or is due, ignoring delayed calls. Return False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running and not self._is_due(), timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """Drop waiting calls, set `is_stopping`, and wait for running calls. Return whether all have ended."""
        with self._changed:
            self.is_stopping = True
            self._waiting.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._running, timeout)

    def resume(self) -> None:
        """Accept calls again after `stop`."""
        with self._changed:
            self.is_stopping = False
            self._changed.notify_all()

    def _is_due(self) -> bool:
        return bool(self._waiting) and self._waiting[0][0] <= time.monotonic() and not self.is_stopping

    def _work(self) -> None:
        while True:
            call = self._take()
            try:
                call()
            except BaseException as error:  # a thread ends only with its process
                logger.error("A call raised an error. Its thread continues.", exc_info=text.logged(error))
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

    def _take(self) -> Callable[[], None]:
        with self._changed:
            while True:
                wait = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if wait is not None and wait <= 0 and not self.is_stopping:
                    self._running += 1
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(None if self.is_stopping else wait)


TRIES = 5
"""The maximum number of runs of a job that raises unexpected errors."""

EXIT_WAIT = 5.0
"""Seconds that a process waits at exit for the batches in its threads."""

pool = Pool(size=2)
"""The pool of this process. It is not part of a backend, because new backends are made when settings change."""

atexit.register(pool.stop, EXIT_WAIT)


class LocalBackend(BaseBackend):
    """A backend that runs jobs in threads of this process. Option: `workers`, the number of threads (default 2)."""

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
            worker.perform_with(payload, self)
        except BadPayload:
            logger.exception("Dropped a payload that is not a job.")
        except BaseException as error:
            logger.error("A job raised an unexpected error: %s", payload, exc_info=text.logged(error))
            if tries > 1:
                self._put(payload, settings.LEASE.total_seconds() / 4, tries - 1)
        finally:
            connections.close_all()
