"""Ctrl-C and SIGTERM: the first signal stops the command after the current batch, the second exits at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

EXIT_CTRL_C = 130
EXIT_RESUMABLE = 4


class Interrupts:
    """A context manager that handles the signals. Does nothing outside of the main thread, as Python requires."""

    def __init__(self) -> None:
        self.at_once: Callable[[], object] = lambda: None
        """Called before the process ends at a second signal."""

        self._first: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has been received."""
        return self._first is not None

    @property
    def exit_code(self) -> int:
        """The exit code after the first signal."""
        return EXIT_CTRL_C if self._first == signal.SIGINT else EXIT_RESUMABLE

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = number
            return
        self.at_once()
        # Do not wait for threads: their batches are rolled back, and their shards are free when the leases expire.
        os._exit(EXIT_CTRL_C)
