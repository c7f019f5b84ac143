"""Records of unmanaged migrations, which report their own status instead of being run by the engine."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial

from django.db import transaction

from massmigration import actors, text
from massmigration.recorder import records
from massmigration.recorder.events import announce
from massmigration.signals import migration_applied, migration_failed, migration_launched, migration_started
from massmigration.states import Status

logger = logging.getLogger(__name__)

_started: ContextVar[dict[tuple[str, str], uuid.UUID] | None] = ContextVar("massmigration_started", default=None)
"""The attempts that the launch in progress has started, by key and database."""


@contextlib.contextmanager
def tracking_attempt() -> Iterator[None]:
    """Attribute reports without an attempt id to the attempt that was started in the same block."""
    token = _started.set({})
    try:
        yield
    finally:
        _started.reset(token)


def start(key: str, db_alias: str, *, source_hash: str) -> uuid.UUID:
    """Insert the record of an unmanaged migration and return the attempt's id.

    Raise `AlreadyLaunched` if there is a record.
    """
    actor = actors.current()
    attempt_id = records.launch(db_alias, key, backend="", actor=actor, source_hash=source_hash, is_managed=False)
    started = _started.get()
    if started is not None:
        started[key, db_alias] = attempt_id
    for send_signal in (
        partial(announce, migration_launched, key, db_alias, actor=actor),
        partial(announce, migration_started, key, db_alias),
    ):
        transaction.on_commit(send_signal, using=db_alias)
    logger.info("Migration %s on database %s: started as an unmanaged migration.", key, db_alias)
    return attempt_id


def finish(key: str, db_alias: str, attempt_id: uuid.UUID | str | None) -> None:
    """Mark the attempt as applied. Log a warning and change nothing if it has ended or was replaced."""
    if _end(key, db_alias, Status.APPLIED, attempt_id):
        transaction.on_commit(partial(announce, migration_applied, key, db_alias), using=db_alias)
        logger.info("Migration %s on database %s: applied.", key, db_alias)


def fail(key: str, db_alias: str, error: BaseException | str | None, attempt_id: uuid.UUID | str | None) -> None:
    """Mark the attempt as failed. Log a warning and change nothing if it has ended or was replaced."""
    message = text.described(error) if isinstance(error, BaseException) else text.safe(error or "No error was given.")
    if _end(key, db_alias, Status.FAILED, attempt_id, message):
        send_signal = partial(announce, migration_failed, key, db_alias, error=message)
        transaction.on_commit(send_signal, using=db_alias)
        logger.error("Migration %s on database %s failed: %s", key, db_alias, text.line(message))


def _end(key: str, db_alias: str, target: Status, attempt_id: uuid.UUID | str | None, error: str = "") -> bool:
    attempt_id = attempt_id or (_started.get() or {}).get((key, db_alias))
    if records.end_unmanaged(db_alias, key, target, attempt_id=attempt_id, error=error):
        return True
    record = records.get(db_alias, key)
    logger.warning(
        "Migration %s on database %s was reported %s by attempt %s; ignored: %s.",
        key,
        db_alias,
        target.value,
        attempt_id or "unknown",
        _state(record.status, record.is_managed, record.attempt_id) if record else "it has no record",
    )
    return False


def _state(status: str, is_managed: bool, attempt_id: uuid.UUID) -> str:
    if is_managed:
        return "only the engine, which runs it, reports its end"
    return f"it is {status}, in attempt {attempt_id}"
