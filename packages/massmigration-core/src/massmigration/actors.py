"""The current actor, who performs operator actions, and the source of the actions.

An actor is a user name, `command:…` or `code:…`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from massmigration import text

MAX_LENGTH = 255
"""The longest actor that records and events store, in characters."""

_actor: ContextVar[str] = ContextVar("massmigration_actor", default="code:")
_source: ContextVar[str] = ContextVar("massmigration_source", default="code")


def current() -> str:
    """Return the current actor."""
    return _actor.get()


def source() -> str:
    """Return the source of actions: `page`, `command` or `code`."""
    return _source.get()


@contextlib.contextmanager
def acting(actor: str | None, *, source: str | None = None) -> Iterator[str]:
    """Set the actor and the source in the block. None keeps the current one. Yield the actor."""
    name = text.clean(actor, MAX_LENGTH) if actor else _actor.get()
    tokens = _actor.set(name), _source.set(source or _source.get())
    try:
        yield _actor.get()
    finally:
        _actor.reset(tokens[0])
        _source.reset(tokens[1])
