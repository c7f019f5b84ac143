"""Reports of changes: events, written in the transaction of the change, and signals, sent after it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import transaction
from django.dispatch import Signal

from massmigration import actors, text
from massmigration.dialects import engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job
from massmigration.models import Event, MigrationRecord
from massmigration.states import ACTIVE

logger = logging.getLogger(__name__)

NOT_SENT = "not sent"
"""The verb of the event that records a job that the queue did not accept."""

SENT = "sent"
"""The verb of the event that records the sending of a job after `NOT_SENT`."""


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
    """Add an event with the database's time. `actor`: who made the change (default: a worker, without a log line)."""
    Event.objects.using(db_alias).create(
        key=key,
        attempt_id=attempt_id,
        at=DatabaseNow(),
        actor=actor,
        source=actors.source() if actor else "",
        verb=verb,
        from_status=from_status,
        to_status=to_status,
        detail=text.clean(detail, text.MAX_LINE),
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
    """Add an event for each key. `details`: the detail by key."""
    Event.objects.using(db_alias).bulk_create(
        Event(
            key=key,
            attempt_id=attempts[key],
            at=DatabaseNow(),
            actor=actor,
            verb=verb,
            to_status=to_status,
            detail=text.clean(detail, text.MAX_LINE),
        )
        for key, detail in details.items()
    )
    for key in details:
        _log(db_alias, key, verb, actor, to_status)


def not_sent(db_alias: str, key: str, attempt_id: uuid.UUID | str) -> str:
    """Return why the queue did not accept the last job of an attempt; empty if anything has happened since."""
    last = Event.objects.using(db_alias).filter(key=key, attempt_id=attempt_id).order_by("-pk").first()
    return last.detail if last is not None and last.verb == NOT_SENT else ""


def record_not_sent(job: Job, detail: str) -> None:
    """Record that the queue did not accept a job, unless the last event says the same."""
    detail = text.clean(detail, text.MAX_LINE)
    if not_sent(job.db_alias, job.key, job.attempt_id) != detail:
        add(job.db_alias, job.key, NOT_SENT, attempt_id=job.attempt_id, detail=detail)


def record_sent(job: Job) -> None:
    """Record that a job was sent, if the last event says that the queue did not accept one."""
    if not_sent(job.db_alias, job.key, job.attempt_id):
        add(job.db_alias, job.key, SENT, attempt_id=job.attempt_id)


def note_code_change(job: Job, source_hash: str) -> bool:
    """Record one event for each different version of the file. Return whether this is the first job with it."""
    if not source_hash:
        return False
    others = (
        MigrationRecord.objects.using(job.db_alias)
        .filter(key=job.key, attempt_id=job.attempt_id, status__in=ACTIVE)
        .exclude(source_hash__in=("", source_hash))
        .exclude(running_hash=source_hash)
    )
    if not others.exists():
        return False
    with engine_transaction(job.db_alias):
        is_first = bool(others.update(running_hash=source_hash))
        if is_first:
            detail = "A worker runs another version of the file than the one this attempt started with."
            add(job.db_alias, job.key, "code changed", attempt_id=job.attempt_id, detail=detail)
    return is_first


def announce(signal: Signal, key: str, db_alias: str, **details: Any) -> None:
    """Send a signal to every receiver, and log what receivers raise."""
    for receiver, answer in signal.send_robust(sender=None, key=key, db_alias=db_alias, **details):
        if isinstance(answer, Exception):
            told = "Receiver %s of a signal of migration %s raised."
            logger.error(told, text.safe_repr(receiver), key, exc_info=text.logged(answer))


def _log(db_alias: str, key: str, verb: str, actor: str, to_status: str) -> None:
    """Log an event after the transaction is committed."""
    status = f" It is {to_status}." if to_status else ""
    who, what = text.line(actor), text.line(key)
    tell = partial(logger.info, "Migration %s on database %s: %s by %s.%s", what, db_alias, verb, who, status)
    transaction.on_commit(tell, using=db_alias)
