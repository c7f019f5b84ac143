"""Writes events, in the transaction of the change that they tell of."""

from __future__ import annotations

import uuid

from massmigration.clock import DatabaseNow
from massmigration.models import Event


def add(
    db_alias: str,
    key: str,
    verb: str,
    *,
    attempt_id: uuid.UUID | str | None = None,
    actor: str = "",
    from_status: str = "",
    to_status: str = "",
    detail: str = "",
) -> None:
    """Add an event, at the server's time."""
    Event.objects.using(db_alias).create(
        key=key,
        attempt_id=attempt_id,
        at=DatabaseNow(),
        actor=actor,
        verb=verb,
        from_status=from_status,
        to_status=to_status,
        detail=detail,
    )
