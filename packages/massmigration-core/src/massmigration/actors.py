"""Who gives the operator's verbs, a user's name, `command:...` or `code:...`; and from where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_actor: ContextVar[str] = ContextVar("massmigration_actor", default="code:")
_source: ContextVar[str] = ContextVar("massmigration_source", default="code")


def current() -> str:
    """Who gives verbs here and now."""
    return _actor.get()


def source() -> str:
    """From where verbs are given: `page`, `command` or `code`."""
    return _source.get()


@contextlib.contextmanager
def acting(actor: str | None, *, source: str | None = None) -> Iterator[str]:
    """Give verbs as `actor`, from `source` (None: as whoever gives them already, from there)."""
    tokens = _actor.set(actor or _actor.get()), _source.set(source or _source.get())
    try:
        yield _actor.get()
    finally:
        _actor.reset(tokens[0])
        _source.reset(tokens[1])
