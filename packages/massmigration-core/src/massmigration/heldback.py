"""Holds mail back while something is only tried."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend

_held: ContextVar[list[Any] | None] = ContextVar("massmigration_held_mail", default=None)
_get_connection = mail.get_connection


class _Holder(BaseEmailBackend):
    def send_messages(self, email_messages: Any) -> int:
        held = _held.get()
        messages = list(email_messages)
        if held is not None:
            held += messages
        return len(messages)


def _get_connection_or_holder(*arguments: Any, **options: Any) -> Any:
    return _Holder() if _held.get() is not None else _get_connection(*arguments, **options)


@contextlib.contextmanager
def mail_held_back() -> Iterator[list[Any]]:
    """Collect the mails that this thread would send through Django, instead of sending them."""
    # Every mail asks for its connection by this name. Other threads go on to get real ones.
    mail.get_connection = _get_connection_or_holder
    held: list[Any] = []
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)
