"""A backend that runs every job at once, in the caller's thread. For development and tests."""

from __future__ import annotations

import datetime as dt
import threading
from collections import deque
from collections.abc import Callable

from massmigration.backends import worker
from massmigration.backends.base import BaseBackend


class InOrder(threading.local):
    """A runner of calls in the caller's thread, one after the other. A call that a running call adds runs after it.

    Jobs send their continuations while they run. Without a queue, a long migration would be a deep recursion.
    """

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._is_running = False

    def run(self, call: Callable[[], object]) -> None:
        """Run a call and those that it adds, or add it if another one is running. An exception drops the rest."""
        self._calls.append(call)
        if self._is_running:
            return
        self._is_running = True
        try:
            while self._calls:
                self._calls.popleft()()
        finally:
            self._calls.clear()
            self._is_running = False


_jobs = InOrder()


class ImmediateBackend(BaseBackend):
    """A backend that runs jobs in the caller's thread. A launch returns when the migration has ended."""

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        _jobs.run(lambda: worker.perform_with(payload, self))
