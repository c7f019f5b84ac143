"""A record of every batch of a copy, in the batch's transaction."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.models import Count, Max, Min

from massmigration_schema.change import SchemaChange


def note_batches() -> None:
    """Have this process insert a row for each batch that it copies."""
    copy = SchemaChange._copy

    def noted(self: SchemaChange, queryset: Any, db_alias: str) -> None:
        copy(self, queryset, db_alias)
        found = queryset.order_by().aggregate(low=Min("pk"), high=Max("pk"), row_count=Count("pk"))
        if found["row_count"]:
            with connections[db_alias].cursor() as cursor:
                cursor.execute("INSERT INTO load_batch VALUES (%(low)s, %(high)s, %(row_count)s)", found)

    SchemaChange._copy = noted  # type: ignore[method-assign]
