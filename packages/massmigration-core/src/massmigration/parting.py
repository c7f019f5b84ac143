"""Finds keys that part a huge queryset evenly, by what the planner expects: its cost does not grow with the table.

For keys that are whole numbers, and UUIDs where the engine orders them as numbers. PostgreSQL expects by the histogram
of the key; MariaDB and MySQL by diving into its index, of which only proportions can be trusted: twice too many rows
are usual, and never more than half of the table's.
"""

from __future__ import annotations

import heapq
import uuid
from collections.abc import Callable
from typing import Any

from django.db import connections
from django.db.models import QuerySet

from massmigration import keys
from massmigration.estimates import explained_rows
from massmigration.keyset import Keyset

FINENESS = 2
"""Into how many slices a part falls, at least."""

MAX_PROBES = 500
"""Questions to the planner, about 0.3 ms each."""

NOTHING_KNOWN = 10
"""Without statistics, PostgreSQL expects a third of the rows up to any key: the first key is then too large a part."""

Slice = tuple[float, int, int]
"""The rows expected, negative, so that the largest comes first; the bounds: exclusive, inclusive."""


def parting_keys(queryset: QuerySet[Any], keyset: Keyset, count: int) -> list[list[Any]] | None:
    """At most `count - 1` encoded keys, ascending, none of them the last; None where there is nothing to go by."""
    ordered = keyset.rows(keyset.page(queryset, None, None))
    first, last = ordered.first(), ordered.last()
    if first is None or last is None or len(first) > 1:
        return None
    key_of: Callable[[int], Any]
    if type(first[0]) is int:
        low, high, key_of = first[0], last[0], int
    elif isinstance(first[0], uuid.UUID) and connections[queryset.db].vendor == "postgresql":
        low, high, key_of = first[0].int, last[0].int, _as_uuid
    else:
        return None

    def expected(after: int, upper: int) -> int:
        bounds = [keys.encode((key_of(number),)) if number >= low else None for number in (after, upper)]
        return explained_rows(keyset.page(queryset, *bounds)) or 0

    total = expected(low - 1, high)
    if not total or NOTHING_KNOWN * (expected(low - 1, low) - 1) > total:
        return None
    slices = _sliced(expected, low - 1, high, FINENESS * count)
    return [keys.encode((key_of(number),)) for number in _parted(slices, count)]


def _as_uuid(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


def _sliced(expected: Callable[[int, int], int], after: int, upper: int, fineness: int) -> list[Slice]:
    """Halve the largest slice until none holds more than one part in `fineness` of what all hold."""
    slices: list[Slice] = [(-expected(after, upper), after, upper)]
    for _ in range(MAX_PROBES // 2):
        rows, low, high = slices[0]
        if high - low <= 1 or -rows * fineness <= -sum(size for size, _, _ in slices):
            break
        middle = (low + high) // 2
        heapq.heapreplace(slices, (-expected(low, middle), low, middle))
        heapq.heappush(slices, (-expected(middle, high), middle, high))
    return slices


def _parted(slices: list[Slice], count: int) -> list[int]:
    """Where even parts end, but the last, if keys are dense within slices."""
    total = -sum(rows for rows, _, _ in slices)
    last = max(high for _, _, high in slices)
    found: list[int] = []
    passed = 0.0
    for rows, low, high in sorted(slices, key=lambda each: each[1]):
        while rows and len(found) < count - 1 and passed - rows >= (wanted := total * (len(found) + 1) / count):
            key = low + max(int((high - low) * (wanted - passed) / -rows), 1)
            found.append(min(key, high))
        passed -= rows
    return [key for key in dict.fromkeys(found) if key < last]
