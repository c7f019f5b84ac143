"""Row locks: those that do not wait, because a locked row has a living owner, and those that must get their turn."""

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


_NAMESPACE = 0x6D6D  # of our advisory locks


def in_turn(db_alias: str, pk: int) -> None:
    """Queue for a shard's row until the transaction ends, in the order of arrival.

    PostgreSQL leaves a row that several wait for to the first that comes after a commit: its owner, batch after batch.
    Advisory locks have a queue. MariaDB's rows have one.
    """
    connection = connections[db_alias]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_NAMESPACE, pk % 2**31])
