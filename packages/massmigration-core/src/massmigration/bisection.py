"""Finds keys that part a huge queryset evenly, by what the planner expects: its cost does not grow with the table.

For keys that are whole numbers, and UUIDs where the engine orders them as numbers. PostgreSQL expects by the histogram
of the key, MariaDB and MySQL by diving into its index.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.db import connections
from django.db.models import QuerySet

from massmigration import keys
from massmigration.estimates import explained_rows
from massmigration.keyset import Keyset

TOLERANCE = 0.05
"""Of a part's rows: how far from even is even enough."""

MAX_PROBES = 300
"""For one key; twice as many as a UUID has bits, and some."""


def parting_keys(queryset: QuerySet[Any], keyset: Keyset, count: int) -> list[list[Any]] | None:
    """At most `count - 1` encoded keys, ascending, none of them the last; None where the key cannot be bisected."""
    ordered = keyset.rows(keyset.page(queryset, None, None))
    first, last = ordered.first(), ordered.last()
    if first is None or last is None or explained_rows(queryset) is None:
        return None
    kind = type(first[0]) if len(first) == 1 else None
    if kind is int:
        return _parted(queryset, keyset, count, int(first[0]), int(last[0]), lambda number: number)
    if kind is uuid.UUID and connections[queryset.db].vendor == "postgresql":
        return _parted(queryset, keyset, count, first[0].int, last[0].int, lambda number: uuid.UUID(int=number))
    return None


def _parted(
    queryset: QuerySet[Any], keyset: Keyset, count: int, first: int, last: int, key_of: Callable[[int], Any]
) -> list[list[Any]] | None:
    def expected(number: int) -> int:
        return explained_rows(keyset.page(queryset, None, keys.encode((key_of(number),)))) or 0

    total = expected(last)
    if 2 * expected(first) > total:  # not analysed: PostgreSQL expects the same of every bound
        return None
    found: list[int] = []
    at_found = 0
    for part in range(1, count):
        wanted = total * part / count
        low, at_low, high, at_high = (found[-1] if found else first - 1), at_found, last, total
        for turn in range(MAX_PROBES):
            if high - low <= 1:
                break
            # Where it would be if keys were dense; halfway every other time, since they need not be.
            share = 0.5 if turn % 2 or at_high <= at_low else (wanted - at_low) / (at_high - at_low)
            middle = min(max(low + int((high - low) * share), low + 1), high - 1)
            rows = expected(middle)
            if rows < wanted * (1 - TOLERANCE / part):
                low, at_low = middle, rows
            else:
                high, at_high = middle, rows
                if rows <= wanted * (1 + TOLERANCE / part):
                    break
        if high == last:
            break
        found.append(high)
        at_found = at_high
    return [keys.encode((key_of(number),)) for number in found]
