"""Row counts: the planner's estimate where counting would take long."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from massmigration.dialects import dialect_of

COUNT_BELOW = 500_000
"""Tables with fewer rows are counted, which takes 30 to 80 ms per million rows."""


def is_huge(queryset: QuerySet[Any]) -> bool:
    """Return whether the queryset is too large to be counted. A database without estimates is taken to count fast."""
    size = dialect_of(queryset.db).estimated_table_rows(queryset.model)
    return size is not None and size >= COUNT_BELOW


def estimate(queryset: QuerySet[Any]) -> int:
    """Return the planner's estimate of the number of rows, or their count if there is no estimate."""
    dialect = dialect_of(queryset.db)
    if not queryset.query.where and not queryset.query.distinct:
        size = dialect.estimated_table_rows(queryset.model)
        if size is not None:
            return size
    rows = dialect.estimated_query_rows(queryset)
    return int(queryset.order_by().count()) if rows is None else rows
