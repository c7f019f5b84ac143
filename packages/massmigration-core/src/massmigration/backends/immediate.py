"""Runs every job at once, in the caller's thread. For development and tests."""

from __future__ import annotations

import datetime as dt
import threading
from collections import deque

from massmigration.backends.base import BaseBackend


class _Queue(threading.local):
    def __init__(self) -> None:
        self.payloads: deque[tuple[ImmediateBackend, str]] = deque()
        self.is_draining = False


_queue = _Queue()


class ImmediateBackend(BaseBackend):
    """`launch` returns when the migration has ended. A loop, not a recursion: jobs may go on for ever."""

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        _queue.payloads.append((self, payload))
        if _queue.is_draining:
            return
        _queue.is_draining = True
        try:
            while _queue.payloads:
                backend, next_payload = _queue.payloads.popleft()
                backend.perform(next_payload)
        finally:
            _queue.payloads.clear()
            _queue.is_draining = False
