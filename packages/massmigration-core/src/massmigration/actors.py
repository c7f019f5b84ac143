"""Who gives the operator's verbs: a user's name, `command:...` or `code:...`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_actor: ContextVar[str] = ContextVar("massmigration_actor", default="code:")


def current() -> str:
    """Who gives verbs here and now."""
    return _actor.get()


@contextlib.contextmanager
def acting(actor: str | None) -> Iterator[str]:
    """Give verbs as `actor` (None: as whoever gives them already)."""
    token = _actor.set(actor or _actor.get())
    try:
        yield _actor.get()
    finally:
        _actor.reset(token)
