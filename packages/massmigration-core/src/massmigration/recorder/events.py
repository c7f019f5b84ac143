"""Writes events, in the transaction of the change that they tell of."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from functools import partial

from django.db import transaction

from massmigration import actors
from massmigration.clock import DatabaseNow
from massmigration.models import Event

logger = logging.getLogger(__name__)

NOT_SENT = "not sent"
"""The verb of the event that tells of a job which the queue did not take."""


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
    """Add an event, at the server's time. Without an actor it is told by a worker."""
    Event.objects.using(db_alias).create(
        key=key,
        attempt_id=attempt_id,
        at=DatabaseNow(),
        actor=actor,
        source=actors.source() if actor else "",
        verb=verb,
        from_status=from_status,
        to_status=to_status,
        detail=detail,
    )
    if actor:  # workers log what they do themselves
        _log(db_alias, key, verb, actor, to_status)


def add_all(
    db_alias: str,
    details: Mapping[str, str],
    verb: str,
    *,
    attempts: Mapping[str, uuid.UUID],
    actor: str,
    to_status: str,
) -> None:
    """Add an event for each of these keys."""
    Event.objects.using(db_alias).bulk_create(
        Event(
            key=key,
            attempt_id=attempts[key],
            at=DatabaseNow(),
            actor=actor,
            verb=verb,
            to_status=to_status,
            detail=detail,
        )
        for key, detail in details.items()
    )
    for key in details:
        _log(db_alias, key, verb, actor, to_status)


def not_sent(db_alias: str, key: str, attempt_id: uuid.UUID | str) -> str:
    """Why the queue did not take the last job of an attempt, if nothing has happened since; else empty."""
    last = Event.objects.using(db_alias).filter(key=key, attempt_id=attempt_id).order_by("-pk").first()
    return last.detail if last is not None and last.verb == NOT_SENT else ""


def _log(db_alias: str, key: str, verb: str, actor: str, to_status: str) -> None:
    """Once it is committed."""
    status = f" It is {to_status}." if to_status else ""
    tell = partial(logger.info, "Migration %s on database %s: %s by %s.%s", key, db_alias, verb, actor, status)
    transaction.on_commit(tell, using=db_alias)
