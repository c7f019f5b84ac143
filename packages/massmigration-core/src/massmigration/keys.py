"""Turns a key's value into JSON and back, so that cursors can hold any ordered unique key."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import uuid
from typing import Any

Key = tuple[Any, ...]
"""The values of the cursor's fields for one row, in order: one value for most models."""

# datetime before date: a datetime is a date.
_TYPES: tuple[tuple[str, type, Any, Any], ...] = (
    ("uuid", uuid.UUID, str, uuid.UUID),
    ("decimal", decimal.Decimal, str, decimal.Decimal),
    ("datetime", dt.datetime, dt.datetime.isoformat, dt.datetime.fromisoformat),
    ("date", dt.date, dt.date.isoformat, dt.date.fromisoformat),
    ("time", dt.time, dt.time.isoformat, dt.time.fromisoformat),
    (
        "duration",
        dt.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda data: dt.timedelta(*data),
    ),
)


def encode(key: Key) -> list[Any]:
    """The key as JSON. Raise `TypeError` for a type that cannot be a cursor."""
    return [_encode_value(value) for value in key]


def decode(data: list[Any]) -> Key:
    """The key that `encode` was given."""
    return tuple(_decode_value(item) for item in data)


def _encode_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, float):
        return {"float": value.hex()}
    for tag, kind, to_json, _ in _TYPES:
        if isinstance(value, kind):
            return {tag: to_json(value)}
    raise TypeError(f"A key of type {type(value).__name__} cannot be kept as a cursor: {value!r}.")


def _decode_value(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    ((tag, data),) = item.items()
    if tag == "bytes":
        return base64.b64decode(data)
    if tag == "float":
        return float.fromhex(data)
    return next(from_json for name, _, _, from_json in _TYPES if name == tag)(data)
