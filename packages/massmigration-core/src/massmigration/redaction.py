"""Removal of secrets from the texts of errors: the values of variables that `sensitive_variables` names."""

from __future__ import annotations

import traceback as tb
from collections.abc import Collection
from decimal import Decimal
from uuid import UUID

from django.views.debug import get_exception_reporter_filter

REDACTED = "********************"

MIN_SECRET_LENGTH = 4
"""From this length on, a secret is replaced everywhere in a traceback, not only in its messages."""

MAX_CHAIN = 20
"""How many causes and contexts of an error are searched for secrets."""


def message(text: str, error: BaseException) -> str:
    """Return the text, which contains the error's message, without secrets."""
    return _without(text, _secrets(error))


def traceback(text: str, error: BaseException) -> str:
    """Return the text of the error's traceback without secrets."""
    found = _secrets(error)
    if not found:
        return text
    for each in _chain(error):
        text = text.replace(str(each), _without(str(each), found))
    return _without(text, {secret for secret in found if len(secret) >= MIN_SECRET_LENGTH})


def _without(text: str, secrets: Collection[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def _secrets(error: BaseException) -> set[str]:
    """Return the texts of sensitive values. Django's exception filter, or the project's own, knows the variables."""
    reporter = get_exception_reporter_filter(None)
    found = set()
    for each in _chain(error):
        for frame, _ in tb.walk_tb(each.__traceback__):
            values = frame.f_locals
            for name, shown in reporter.get_traceback_frame_variables(None, frame):
                if isinstance(shown, str) and shown == reporter.cleansed_substitute:
                    found |= _texts(values.get(name))
    return found - {"", reporter.cleansed_substitute}


def _texts(value: object) -> set[str]:
    """Return the texts of a plain value. Converting another object would run code of its class."""
    if isinstance(value, bytes):
        return {repr(value), value.decode(errors="replace")}
    return {str(value), repr(value)[1:-1]} if type(value) in (str, int, float, Decimal, UUID) else set()


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error with its causes and contexts."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting and len(found) < MAX_CHAIN:
        each = waiting.pop()
        if each is not None and all(each is not other for other in found):
            found.append(each)
            waiting += [each.__cause__, each.__context__]
    return found
