"""Runs tasks in their place, where the app's `task_always_eager` says so."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from celery import current_app


class _Queue(threading.local):
    def __init__(self) -> None:
        self.signatures: deque[Any] = deque()
        self.is_draining = False


_queue = _Queue()


def is_eager() -> bool:
    """Whether tasks run where they are sent from."""
    return bool(current_app.conf.task_always_eager)


def run(signature: Any) -> None:
    """Run a task, and what it sends after it. A loop, not a recursion: jobs may go on for ever."""
    _queue.signatures.append(signature)
    if _queue.is_draining:
        return
    _queue.is_draining = True
    try:
        while _queue.signatures:
            _queue.signatures.popleft().apply_async()
    finally:
        _queue.signatures.clear()
        _queue.is_draining = False
