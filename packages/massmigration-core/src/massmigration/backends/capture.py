"""A list of what code sends through a queue's client during a dry run, instead of sending it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any


class SendCapture:
    """A context manager that lists the calls of methods in one thread instead of making them."""

    def __init__(self, *methods: tuple[type, str], describe: Callable[..., str], stand_in: Callable[..., Any]) -> None:
        """Take pairs of a class and the name of one of its methods.

        `describe` and `stand_in` are called with the arguments of the captured call. `describe` returns a line for the
        list, `stand_in` the value for the caller.
        """
        self._methods = methods
        self._describe = describe
        self._stand_in = stand_in
        self._captured: ContextVar[list[str] | None] = ContextVar("massmigration_captured_sends", default=None)

    @contextlib.contextmanager
    def capture_sends(self) -> Iterator[list[str]]:
        """Capture the calls of this thread, and yield their list."""
        for owner, name in self._methods:
            if not hasattr(vars(owner)[name], "is_captured_by_massmigration"):
                setattr(owner, name, self._wrapper(vars(owner)[name]))
        captured: list[str] = []
        token = self._captured.set(captured)
        try:
            yield captured
        finally:
            self._captured.reset(token)

    def _wrapper(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call_or_capture(*args: Any, **kwargs: Any) -> Any:
            captured = self._captured.get()
            if captured is None:
                return method(*args, **kwargs)
            captured.append(self._describe(*args, **kwargs))
            return self._stand_in(*args, **kwargs)

        call_or_capture.is_captured_by_massmigration = True  # type: ignore[attr-defined]
        return call_or_capture
