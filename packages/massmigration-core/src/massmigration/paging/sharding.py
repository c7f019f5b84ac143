"""Sharding of a queryset into key ranges with about the same number of rows.

A small table is split by walking the index of its key, a huge one by the planner's statistics, whose cost does not
depend on the size of the table. Statistics serve for keys that are integers, and for UUIDs if the database orders them
as numbers. PostgreSQL estimates a range from the histogram of the key. MariaDB and MySQL estimate it by diving into the
index; only the proportions of their estimates are reliable: twice too many rows are usual, and never more than half of
the table's.

A range is never chosen by arithmetic between the least and the greatest key: with sparse keys, one shard would get
nearly all rows.
"""

from __future__ import annotations

import dataclasses
import heapq
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import QuerySet

from massmigration.dialects import dialect_of
from massmigration.paging.keyset import Keyset, encode_key
from massmigration.paging.statistics import estimate, is_huge

MIN_SHARD_SIZE = 10_000
"""The number of rows below which splitting a shard costs more than it gains."""

MAX_SHARD_FACTOR = 4
"""The maximum number of shards if the estimate was too low, as a multiple of the requested number."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """The keys from `lower` (exclusive; None: from the start) to `upper` (inclusive), both encoded."""

    lower: list[Any] | None
    upper: list[Any] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """The key ranges of a stage's shards, and the number of its objects, if known."""

    ranges: Sequence[KeyRange]
    total: int | None
    is_total_estimated: bool = False


SINGLE_SHARD = ShardPlan(ranges=(KeyRange(lower=None, upper=None),), total=1)
"""The plan of a stage that runs once."""


def split(queryset: QuerySet[Any], keyset: Keyset, count: int) -> ShardPlan:
    """Return about `count` ranges that contain every present row; none if there are no rows."""
    estimated = is_huge(queryset)
    total = estimate(queryset) if estimated else queryset.order_by().count()
    # The upper ends of all ranges but the last.
    uppers = split_by_statistics(queryset, keyset, count) if estimated else None
    if uppers is None:
        uppers = _split_by_index(queryset, keyset, count, total)
    last = _last(keyset, keyset.page(queryset, uppers[-1] if uppers else None, None))
    if last is not None:
        uppers = [*uppers, last]
    pairs = zip([None, *uppers], uppers, strict=False)
    ranges = [KeyRange(lower=lower, upper=upper) for lower, upper in pairs]
    return ShardPlan(ranges=ranges, total=total, is_total_estimated=estimated)


def _split_by_index(queryset: QuerySet[Any], keyset: Keyset, count: int, total: int) -> list[list[Any]]:
    """Return the upper ends of all ranges but the last, counted along the index."""
    step = max(-(-total // count), MIN_SHARD_SIZE)
    uppers: list[list[Any]] = []
    while count > 1:
        upper = key_at(keyset, keyset.page(queryset, uppers[-1] if uppers else None, None), step - 1)
        if upper is None:
            break
        uppers.append(upper)
        if len(uppers) == count * MAX_SHARD_FACTOR:
            uppers = uppers[1::2]  # join each two neighbors
            step *= 2
    return uppers


def key_at(keyset: Keyset, page: QuerySet[Any], offset: int) -> list[Any] | None:
    """Return the encoded key of the row at this offset of a page. None: the page is shorter."""
    found = list(keyset.rows(page)[offset : offset + 1])
    return encode_key(found[0]) if found else None


def _last(keyset: Keyset, page: QuerySet[Any]) -> list[Any] | None:
    return key_at(keyset, page.order_by(*(f"-{field}" for field in keyset.fields)), 0)


FINENESS = 2
"""The least number of slices that a shard consists of."""

MAX_PROBES = 500
"""The number of questions to the planner, which take about 0.3 ms each."""

MIN_STATISTICS_RATIO = 10
"""The minimum size of the whole range, as a multiple of the rows up to the first key.

Without statistics, PostgreSQL expects a third of the rows up to any key.
"""

Slice = tuple[float, int, int]
"""The negative number of expected rows, so that the largest comes first, and the bounds: exclusive, inclusive."""


def split_by_statistics(queryset: QuerySet[Any], keyset: Keyset, count: int) -> list[list[Any]] | None:
    """Return at most `count - 1` encoded keys in ascending order, without the last key of the queryset.

    None: the database has no statistics for this key.
    """
    ordered = keyset.rows(keyset.page(queryset, None, None))
    first, last = ordered.first(), ordered.last()
    if first is None or last is None or len(first) > 1:
        return None
    dialect = dialect_of(queryset.db)
    key_of: Callable[[int], Any]
    if type(first[0]) is int:
        low, high, key_of = first[0], last[0], int
    elif isinstance(first[0], uuid.UUID) and dialect.orders_uuids_as_numbers:
        low, high, key_of = first[0].int, last[0].int, _as_uuid
    else:
        return None

    def expected(after: int, upper: int) -> int:
        bounds = [encode_key((key_of(number),)) if number >= low else None for number in (after, upper)]
        return dialect.estimated_query_rows(keyset.page(queryset, *bounds)) or 0

    total = expected(low - 1, high)
    if not total or MIN_STATISTICS_RATIO * (expected(low - 1, low) - 1) > total:
        return None
    slices = _sliced(expected, low - 1, high, FINENESS * count)
    return [encode_key((key_of(number),)) for number in _bounds(slices, count)]


def _as_uuid(number: int) -> uuid.UUID:
    return uuid.UUID(int=number)


def _sliced(expected: Callable[[int, int], int], after: int, upper: int, fineness: int) -> list[Slice]:
    """Halve the largest slice until no slice has more than one part in `fineness` of all expected rows."""
    slices: list[Slice] = [(-expected(after, upper), after, upper)]
    for _ in range(MAX_PROBES // 2):
        rows, low, high = slices[0]
        if high - low <= 1 or -rows * fineness <= -sum(size for size, _, _ in slices):
            break
        middle = (low + high) // 2
        heapq.heapreplace(slices, (-expected(low, middle), low, middle))
        heapq.heappush(slices, (-expected(middle, high), middle, high))
    return slices


def _bounds(slices: list[Slice], count: int) -> list[int]:
    """Return the ends of `count` even ranges, without the last end. Keys are assumed to be dense within a slice."""
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
