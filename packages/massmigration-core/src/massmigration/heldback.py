"""Holds mail back while something is only tried."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend

_held: ContextVar[list[Any] | None] = ContextVar("massmigration_held_mail", default=None)
_lock = threading.Lock()
_originals: list[tuple[Any, str, Any]] = []
_holders = 0


class _Holder(BaseEmailBackend):
    def send_messages(self, email_messages: Any) -> int:
        held = _held.get()
        messages = list(email_messages)
        if held is not None:
            held += messages
        return len(messages)


@contextlib.contextmanager
def mail_held_back() -> Iterator[list[Any]]:
    """Collect the mails that this thread would send through Django, instead of sending them."""
    held: list[Any] = []
    _replace()
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)
        _put_back()


def _replace() -> None:
    """Every mail asks for its connection by one of these names. Other threads go on to get real ones.

    `import_string` is what `get_connection` finds the backend's class with, also for who has imported it before.
    """
    global _holders
    with _lock:
        _holders += 1
        if _holders > 1:
            return
        _replace_one(mail, "get_connection", _holder)
        _replace_one(mail, "import_string", lambda: _holder)
        if handler := getattr(mail, "MailersHandler", None):  # since Django 6.1
            _replace_one(handler, "create_connection", _holder)


def _put_back() -> None:
    """Not before the last: Django warns of who else calls them."""
    global _holders
    with _lock:
        _holders -= 1
        while not _holders and _originals:
            setattr(*_originals.pop())


def _replace_one(owner: Any, name: str, instead: Callable[[], Any]) -> None:
    original = getattr(owner, name)

    def replacement(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options) if _held.get() is None else instead()

    _originals.append((owner, name, original))
    setattr(owner, name, replacement)


def _holder(*arguments: Any, **options: Any) -> _Holder:
    """In place of a backend's class, whatever options that has."""
    return _Holder()
