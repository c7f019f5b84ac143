"""What a migration that runs itself, or is run by a backend's own method, tells its record."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

from django.db import transaction

from massmigration import actors
from massmigration.recorder import failures, own_runs, records
from massmigration.signals import announce, migration_applied, migration_failed, migration_launched, migration_started
from massmigration.states import Status

if TYPE_CHECKING:
    from massmigration.definitions.base import BaseMigration

logger = logging.getLogger(__name__)

_begun: ContextVar[dict[tuple[str, str], uuid.UUID] | None] = ContextVar("massmigration_begun", default=None)
"""The attempts that the launch in progress has begun, by key and database."""


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """Until the block ends, what a migration reports is of the attempt that it began in the block."""
    token = _begun.set({})
    try:
        yield
    finally:
        _begun.reset(token)


def begin(migration: BaseMigration, db_alias: str) -> uuid.UUID:
    """Insert the record of a migration that runs itself. Raise `AlreadyLaunched` if there is a record."""
    actor = actors.current()
    attempt_id = records.launch(
        db_alias, migration.key, backend="", actor=actor, source_hash=migration.source_hash, is_managed=False
    )
    begun = _begun.get()
    if begun is not None:
        begun[migration.key, db_alias] = attempt_id
    for tell in (
        partial(announce, migration_launched, migration.key, db_alias, actor=actor),
        partial(announce, migration_started, migration.key, db_alias),
    ):
        transaction.on_commit(tell, using=db_alias)
    logger.info("Migration %s on database %s runs itself.", migration.key, db_alias)
    return attempt_id


def finish(migration: BaseMigration, db_alias: str, attempt_id: uuid.UUID | str | None) -> None:
    """Mark the attempt as applied, unless it has ended or was replaced."""
    if _end(migration, db_alias, Status.APPLIED, attempt_id):
        transaction.on_commit(partial(announce, migration_applied, migration.key, db_alias), using=db_alias)
        logger.info("Migration %s on database %s: applied.", migration.key, db_alias)


def fail(
    migration: BaseMigration, db_alias: str, error: BaseException | str | None, attempt_id: uuid.UUID | str | None
) -> None:
    """Mark the attempt as failed, unless it has ended or was replaced."""
    text = failures.describe(None, error) if isinstance(error, BaseException) else str(error or "No error was given.")
    if _end(migration, db_alias, Status.FAILED, attempt_id, text):
        tell = partial(announce, migration_failed, migration.key, db_alias, error=text)
        transaction.on_commit(tell, using=db_alias)
        logger.error("Migration %s on database %s failed: %s", migration.key, db_alias, text)


def _end(
    migration: BaseMigration, db_alias: str, target: Status, attempt_id: uuid.UUID | str | None, error: str = ""
) -> bool:
    attempt_id = attempt_id or (_begun.get() or {}).get((migration.key, db_alias))
    if own_runs.end(db_alias, migration.key, target, attempt_id=attempt_id, error=error):
        return True
    record = records.get(db_alias, migration.key)
    logger.warning(
        "Migration %s on database %s was reported %s by attempt %s; ignored: %s.",
        migration.key,
        db_alias,
        target.value,
        attempt_id or "unknown",
        _standing(record.status, record.is_managed, record.attempt_id) if record else "it has no record",
    )
    return False


def _standing(status: str, is_managed: bool, attempt_id: uuid.UUID) -> str:
    if is_managed:
        return "its jobs alone say when it ends"
    return f"it is {status}, in attempt {attempt_id}"
