"""A pool of threads with a queue that can hold calls back."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Pool:
    """Runs calls in daemon threads, which are started when first needed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_stopping = False
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """A fork takes no threads along; what waits is the parent's to run; its lock may be held by nobody."""
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = 0
        self._threads: list[threading.Thread] = []

    @property
    def waiting(self) -> int:
        """How many calls wait, for a thread or for their time."""
        with self._changed:
            return len(self._waiting)

    def put(self, call: Callable[[], None], delay: float = 0) -> None:
        """Run `call` in a thread, `delay` seconds from now at the earliest."""
        with self._changed:
            heapq.heappush(self._waiting, (time.monotonic() + delay, next(self._order), call))
            if len(self._threads) < self.size and len(self._waiting) + self._running > len(self._threads):
                name = f"massmigration-{len(self._threads) + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or runs. Return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._running, timeout)

    def wait_until_quiet(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs or is due; what is held back for later does not count. Return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running and not self._is_due(), timeout)

    def stop(self, timeout: float | None = None) -> bool:
        """Forget what waits, ask what runs to end (`is_stopping`), and wait for it. Return whether all has ended."""
        with self._changed:
            self.is_stopping = True
            self._waiting.clear()
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._running, timeout)

    def resume(self) -> None:
        """Take calls again after `stop`."""
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
            except BaseException:  # nothing but the process' end ends its threads
                logger.exception("A call raised; its thread goes on.")
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
