"""Row locks that do not wait: a locked row has a living owner."""

from __future__ import annotations

from typing import TypeVar

from django.db import connections
from django.db.models import Model, QuerySet

_M = TypeVar("_M", bound=Model)


def unless_locked(queryset: QuerySet[_M]) -> QuerySet[_M]:
    """Lock the rows that no other transaction holds, where the engine can tell them apart.

    SQLite has no row locks: the engine's transactions hold its one write lock from their start.
    """
    features = connections[queryset.db].features
    if not features.has_select_for_update:
        return queryset
    return queryset.select_for_update(skip_locked=features.has_select_for_update_skip_locked)
