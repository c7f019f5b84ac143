"""A split of stages at the ranges of a function that was written for djangae."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet

from massmigration.backends.base import KeyRange, Keyset, ShardPlan, encode_key


def at_ranges(queryset: QuerySet[Any], keyset: Keyset, ranges: Iterable[tuple[Any, Any]]) -> ShardPlan:
    """Return a plan whose ranges begin where djangae's ranges begin. Their ends are ignored, because some overlap.

    A range of djangae includes its first key, a range of the core its last: each ends with the last key before the next
    beginning.
    """
    uppers = []
    for start in sorted({start for start, _ in ranges if start is not None}):
        before = keyset.rows(keyset.page(queryset, None, None).filter(pk__lt=start))
        last = before.reverse()[:1].first()
        if last is not None and [*last] not in uppers:
            uppers.append([*last])
    end = keyset.rows(keyset.page(queryset, None, None)).reverse()[:1].first()
    if end is None:
        return ShardPlan(ranges=(), total=0)
    if [*end] not in uppers:
        uppers.append([*end])
    encoded = [encode_key(tuple(upper)) for upper in uppers]
    spans = zip([None, *encoded[:-1]], encoded, strict=True)
    return ShardPlan(
        ranges=[KeyRange(lower=lower, upper=upper) for lower, upper in spans], total=queryset.order_by().count()
    )
