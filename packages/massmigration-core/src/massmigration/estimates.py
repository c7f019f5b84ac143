"""How many rows there are, without counting where counting would hurt."""

from __future__ import annotations

import json
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import Model, QuerySet

COUNT_BELOW = 500_000
"""Tables of fewer rows are counted: 30 to 80 ms a million rows."""


def estimate_table(model: type[Model], db_alias: str) -> int | None:
    """The planner's idea of a table's size; None when the engine has none."""
    connection = connections[db_alias]
    table = model._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)", [connection.ops.quote_name(table)]
            )
        elif connection.vendor == "mysql":
            cursor.execute(
                "SELECT table_rows FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s",
                [table],
            )
        else:
            return None
        row = cursor.fetchone()
    # PostgreSQL says -1 of a table that was never analysed.
    return int(row[0]) if row and row[0] is not None and row[0] >= 0 else None


def is_huge(queryset: QuerySet[Any]) -> bool:
    """Whether counting the queryset would hurt. Every engine but PostgreSQL and MySQL is taken to count fast."""
    size = estimate_table(queryset.model, queryset.db)
    return size is not None and size >= COUNT_BELOW


def estimate(queryset: QuerySet[Any]) -> int:
    """The planner's idea of how many rows a queryset has."""
    if not queryset.query.where and not queryset.query.distinct:
        size = estimate_table(queryset.model, queryset.db)
        if size is not None:
            return size
    rows = explained_rows(queryset)
    return int(queryset.order_by().count()) if rows is None else rows


def explained_rows(queryset: QuerySet[Any]) -> int | None:
    """How many rows the planner expects of a query; None where it is not asked."""
    connection = connections[queryset.db]
    if connection.vendor not in ("postgresql", "mysql"):
        return None
    try:
        sql, params = queryset.order_by().query.get_compiler(queryset.db).as_sql()
    except EmptyResultSet:
        return 0
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
            (told,) = cursor.fetchone()
            (plan,) = json.loads(told) if isinstance(told, str) else told
            return int(plan["Plan"]["Plan Rows"])
        cursor.execute(f"EXPLAIN {sql}", params)
        names = [column[0] for column in cursor.description]
        return int(max(dict(zip(names, row, strict=True))["rows"] or 0 for row in cursor.fetchall()))
