"""Holds back, while something is only tried, what code sends through the functions of a queue's client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any


class Holder:
    """Lists calls of methods instead of making them, in the threads that ask for it; others go on to make them."""

    def __init__(self, *methods: tuple[type, str], describe: Callable[..., str], stand_in: Callable[..., Any]) -> None:
        """Called with what a method is: `describe` makes a line of it, `stand_in` what its caller is given."""
        self._methods = methods
        self._describe = describe
        self._stand_in = stand_in
        self._held: ContextVar[list[str] | None] = ContextVar("massmigration_held_back", default=None)

    @contextlib.contextmanager
    def hold_back(self) -> Iterator[list[str]]:
        """Hold back what this thread sends, and give the list of it."""
        for owner, name in self._methods:
            if not hasattr(vars(owner)[name], "is_held_by_massmigration"):
                setattr(owner, name, self._holding(vars(owner)[name]))
        held: list[str] = []
        token = self._held.set(held)
        try:
            yield held
        finally:
            self._held.reset(token)

    def _holding(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call_or_hold(*args: Any, **kwargs: Any) -> Any:
            held = self._held.get()
            if held is None:
                return method(*args, **kwargs)
            held.append(self._describe(*args, **kwargs))
            return self._stand_in(*args, **kwargs)

        call_or_hold.is_held_by_massmigration = True  # type: ignore[attr-defined]
        return call_or_hold
