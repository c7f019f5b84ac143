"""Cuts a queryset into ranges of about the same number of rows: by walking its key's index, or by statistics.

Never by arithmetic between the least and the greatest key: with sparse keys one shard gets nearly everything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from django.db.models import QuerySet

from massmigration import keys
from massmigration.estimates import estimate, is_huge
from massmigration.keyset import Keyset
from massmigration.parting import parting_keys

MIN_SHARD_SIZE = 10_000
"""Rows below which cutting further costs more than it gains."""

MAX_SHARD_FACTOR = 4
"""How many times the wanted number of shards there may be when the estimate was too low."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """`lower` (exclusive; None: from the start) to `upper` (inclusive), as encoded keys."""

    lower: list[Any] | None
    upper: list[Any] | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A stage's ranges and its number of objects, if known."""

    ranges: Sequence[Range]
    total: int | None
    is_total_estimated: bool = False


ONCE = Plan(ranges=(Range(lower=None, upper=None),), total=1)
"""The plan of a stage that is done once."""


def cut(queryset: QuerySet[Any], keyset: Keyset, count: int) -> Plan:
    """About `count` ranges that hold every row there is now; none if there are no rows."""
    estimated = is_huge(queryset)
    total = estimate(queryset) if estimated else queryset.order_by().count()
    # The upper ends of all ranges but the last.
    uppers = parting_keys(queryset, keyset, count) if estimated else None
    if uppers is None:
        uppers = _walked(queryset, keyset, count, total)
    last = _last(keyset, keyset.page(queryset, uppers[-1] if uppers else None, None))
    if last is not None:
        uppers = [*uppers, last]
    pairs = zip([None, *uppers], uppers, strict=False)
    ranges = [Range(lower=lower, upper=upper) for lower, upper in pairs]
    return Plan(ranges=ranges, total=total, is_total_estimated=estimated)


def _walked(queryset: QuerySet[Any], keyset: Keyset, count: int, total: int) -> list[list[Any]]:
    """Counted along the index."""
    step = max(-(-total // count), MIN_SHARD_SIZE)
    uppers: list[list[Any]] = []
    while count > 1:
        upper = key_at(keyset, keyset.page(queryset, uppers[-1] if uppers else None, None), step - 1)
        if upper is None:
            break
        uppers.append(upper)
        if len(uppers) == count * MAX_SHARD_FACTOR:
            uppers = uppers[1::2]  # every two neighbours as one
            step *= 2
    return uppers


def key_at(keyset: Keyset, page: QuerySet[Any], offset: int) -> list[Any] | None:
    """The encoded key of a page's row at this place, from 0; None if the page is shorter."""
    found = list(keyset.rows(page)[offset : offset + 1])
    return keys.encode(found[0]) if found else None


def _last(keyset: Keyset, page: QuerySet[Any]) -> list[Any] | None:
    return key_at(keyset, page.order_by(*(f"-{field}" for field in keyset.fields)), 0)
