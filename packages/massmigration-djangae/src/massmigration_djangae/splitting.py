"""Cuts stages where the core's walk along the index does not do: at given ranges, and on Datastore and Firestore."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.models import QuerySet

from massmigration import keys
from massmigration.sharding import Plan, Range


def at_ranges(queryset: QuerySet[Any], keyset: Any, ranges: Iterable[tuple[Any, Any]]) -> Plan:
    """At the bounds of djangae's ranges, of which some overlap: only where they begin is taken from them.

    Its ranges hold their beginnings, ours their ends; so each ends with the last key before the next beginning.
    """
    uppers = []
    for start in sorted({start for start, _ in ranges if start is not None}):
        before = keyset.rows(keyset.page(queryset, None, None).filter(pk__lt=start))
        last = before.reverse()[:1].first()
        if last is not None and [*last] not in uppers:
            uppers.append([*last])
    end = keyset.rows(keyset.page(queryset, None, None)).reverse()[:1].first()
    if end is None:
        return Plan(ranges=(), total=0)
    if [*end] not in uppers:
        uppers.append([*end])
    encoded = [keys.encode(tuple(upper)) for upper in uppers]
    spans = zip([None, *encoded[:-1]], encoded, strict=True)
    return Plan(ranges=[Range(lower=lower, upper=upper) for lower, upper in spans], total=queryset.order_by().count())
