"""Errors and other values as text that can be stored, logged and shown. These functions never raise.

Exceptions of users' code may contain any text, or raise when they are converted to text. `redaction` removes secrets.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from massmigration import redaction
from massmigration.exceptions import MassMigrationError

MAX_TEXT = 100_000
"""The longest message or traceback, in characters. Longer ones are truncated."""

MAX_LINE = 5_000
"""The longest text of a line in a log, a record's last error, or an event, in characters."""

_CUT = "…"

# What __str__ may raise besides Exception. KeyboardInterrupt is not caught: it does not come from the value.
_EXITS = (SystemExit, GeneratorExit, asyncio.CancelledError)


def clean(value: str, limit: int = MAX_TEXT) -> str:
    """Return text that every database accepts: without NUL, which PostgreSQL refuses, and without lone surrogates."""
    found = _cut(str.__str__(value), limit).replace("\x00", "\\x00").encode(errors="backslashreplace").decode()
    return _cut(found, limit)  # escapes make it longer


def safe(value: object, limit: int = MAX_LINE) -> str:
    """Return `str(value)`, or a description of the exception that it raises."""
    try:
        return clean(redaction.message(str(value), value) if isinstance(value, BaseException) else str(value), limit)
    except (Exception, *_EXITS) as error:
        return f"<{_name(type(value))} whose str() raised {_name(type(error))}>"


def line(value: object, limit: int = MAX_LINE) -> str:
    """Return `safe(value)` for a log: control characters and line breaks are escaped."""
    found = safe(value, limit)
    return found if found.isprintable() else "".join(each if each.isprintable() else _escaped(each) for each in found)


def safe_repr(value: object, limit: int = MAX_LINE) -> str:
    """Return `repr(value)`, or a description of the exception that it raises."""
    try:
        return clean(repr(value), limit)
    except (Exception, *_EXITS) as error:
        return f"<{_name(type(value))} whose repr() raised {_name(type(error))}>"


def described(error: BaseException, limit: int = MAX_LINE) -> str:
    """Return the error's class and message."""
    return clean(f"{_name(type(error))}: {safe(error, limit).strip()}", limit)


def told(error: BaseException) -> str:
    """Return the error's class and message; of this project's own errors, only the message."""
    return safe(error) if isinstance(error, MassMigrationError) else described(error)


def class_path(error: BaseException) -> str:
    """Return the module and name of the error's class."""
    return clean(f"{_name(type(error), '__module__')}.{_name(type(error), '__qualname__')}", 255)


def traceback_of(error: BaseException) -> str:
    """Return the error's traceback, with the tracebacks of its causes."""
    try:
        found = "".join(traceback.format_exception(error))
        return clean(redaction.traceback(found, error))
    except (Exception, *_EXITS):
        frames = traceback.format_tb(error.__traceback__)
        return clean("".join([*frames, described(error)]))


def logged(error: BaseException) -> BaseException:
    """Return the error for a log's `exc_info`; if its text cannot be logged, a stand-in with its name and traceback.

    Log handlers format tracebacks themselves. They lose the entry if that raises, or if the text cannot be encoded.
    """
    try:
        raw = "".join(traceback.format_exception(error))
        if traceback_of(error) == _cut(raw, MAX_TEXT):
            return error
    except (Exception, *_EXITS):
        pass
    found: BaseException | None = None
    for each in reversed(_causes(error)):
        name, module = _name(type(each)), clean(_name(type(each), "__module__"), 255)
        stand_in: BaseException = type(clean(name, 255), (Exception,), {"__module__": module})(safe(each, MAX_TEXT))
        stand_in.__cause__ = found
        found = stand_in.with_traceback(each.__traceback__)
    assert found is not None
    return found


def number(value: float) -> str:
    """Return a whole number with a space between its thousands: `234 908`."""
    return f"{value:,.0f}".replace(",", " ")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 row`, `2 rows`. `plural`: the plural, if it does not end in `s`."""
    return f"{number(count)} {noun if count == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `3 s`, `2 min 5 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def database_code(error: BaseException) -> str:
    """Return the database's code of the error: an SQLSTATE of PostgreSQL, a number of MySQL, or an empty string."""
    cause: Any = error.__cause__ or error
    args = getattr(cause, "args", ())
    # PyMySQL also has an SQLSTATE, which is less specific than its number.
    if args and type(args[0]) is int:
        return str(args[0])
    for name in ("sqlstate", "pgcode", "sqlite_errorname"):
        code = getattr(cause, name, None)
        if isinstance(code, str):
            return code
    return ""


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - len(_CUT)] + _CUT


def _causes(error: BaseException) -> list[BaseException]:
    """Return the error and the errors that its traceback shows before it."""
    found = [error]
    while len(found) < redaction.MAX_CHAIN:
        last = found[-1]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or any(before is each for each in found):
            break
        found.append(before)
    return found


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _name(of_class: type, attribute: str = "__name__") -> str:
    return str(getattr(of_class, attribute, "?"))
