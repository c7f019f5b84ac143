"""What operators can do. Each function takes a migration's key, `app_label:name`, and a database alias.

Refusals are raised here or below, as subclasses of `MassMigrationError`, in the words that pages and commands show.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from functools import partial

from django.db import DatabaseError, transaction

from massmigration import actors, progress, record_cache, tables
from massmigration.backends import handler, healing, offering
from massmigration.backends.base import AdminAction, BackendHealth
from massmigration.definitions import reporting
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.vetting import vet
from massmigration.exceptions import AlreadyLaunched, CannotResolve, InvalidTransition
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.progress import Reading
from massmigration.questions import (
    can_start_migration,
    get_all_migrations,
    migration_is_applied,
    migration_is_in_progress,
    migration_was_started,
)
from massmigration.recorder import attempts, events, records, resolving
from massmigration.signals import announce, migration_paused
from massmigration.states import ACTIVE, Status

__all__ = [
    "DEFAULT",
    "backend_actions",
    "backend_health",
    "can_start_migration",
    "cancel",
    "fake",
    "forget",
    "get_all_migrations",
    "heal",
    "initiate_migration",
    "launch",
    "migration_is_applied",
    "migration_is_in_progress",
    "migration_was_started",
    "not_sent",
    "pause",
    "perform_backend_action",
    "resolve",
    "restart",
    "resume",
    "retry",
    "retry_failed",
    "send",
    "status",
    "wait",
]

DEFAULT = "default"


def launch(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Start a migration in the background.

    Raise `MigrationNotFound`, `BadMigrationFile`, `BadQuerySet`, `DatabaseNotAllowed`, `DependencyNotApplied`,
    `RecordsUnreadable`, or `AlreadyLaunched` when it has a record already. A job that cannot be sent is an event, and
    is healed.
    """
    migration = store.get(key)
    migration.check_db_alias(db_alias)
    try:
        record = records.get(db_alias, key)
    except DatabaseError:
        tables.check(db_alias)
        raise
    if record is not None:
        raise AlreadyLaunched(records.already_launched(db_alias, record))
    migration.check_dependencies(db_alias)
    with actors.acting(actor), reporting.launching():
        migration.launch(db_alias)


def not_sent(key: str, db_alias: str = DEFAULT) -> str:
    """Why the queue did not take the job of a verb that was just given; empty: it did. `heal` sends the job later."""
    record = records.get(db_alias, key)
    detail = events.not_sent(db_alias, key, record.attempt_id) if record else ""
    return detail and (
        f"{key} waits: its job could not be sent ({detail}). When the queue answers again, send it: "
        "manage.py massmigrate --recover"
    )


def pause(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Stop from the next batch on. Raise `InvalidTransition` unless it is queued or running."""
    with actors.acting(actor) as who, attempts.bounded(db_alias, key):
        records.move(db_alias, key, Status.PAUSED, "pause", actor=who)
        transaction.on_commit(partial(announce, migration_paused, key, db_alias, actor=who), using=db_alias)


def resume(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Go on after a pause. Raise `InvalidTransition` unless it is paused."""
    with actors.acting(actor) as who:
        with attempts.bounded(db_alias, key):
            record = records.resume(db_alias, key, actor=who)
        _send_plan(db_alias, record)


def cancel(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Give up, from the next batch on. Raise `InvalidTransition` unless it is queued, running or paused."""
    with actors.acting(actor) as who, attempts.bounded(db_alias, key):
        records.move(db_alias, key, Status.CANCELLED, "cancel", actor=who)


def retry(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Begin a new attempt where the last one ended. Raise `InvalidTransition` unless it failed or was cancelled.

    Raise `BatchInFlight` when a batch of the old attempt does not end within `MASSMIGRATION_LOCK_WAIT`.
    """
    migration = store.get(key)
    migration.check_dependencies(db_alias)
    with actors.acting(actor) as who:
        if _runs_itself(db_alias, key):
            _launch_again(migration, db_alias, "retry", actor=who)
        else:
            vet(migration, db_alias)
            _send_plan(db_alias, attempts.retry(db_alias, key, actor=who, source_hash=migration.source_hash))


def retry_failed(
    key: str,
    db_alias: str = DEFAULT,
    *,
    ids: Collection[int] | None = None,
    fingerprint: str | None = None,
    actor: str | None = None,
) -> None:
    """Retry, but of the failed objects do only these again: by the ids of `FailedObject`, or one cause's.

    What the cursors have not passed is done as well. Raise as `retry` does, and `CannotResolve` when none is left.
    """
    migration = store.get(key)
    migration.check_dependencies(db_alias)
    choice = resolving.chosen(ids, fingerprint)
    with actors.acting(actor) as who:
        record = attempts.retry(db_alias, key, actor=who, source_hash=migration.source_hash, choice=choice)
        _send_plan(db_alias, record)


def resolve(
    key: str,
    db_alias: str = DEFAULT,
    *,
    reason: str,
    ids: Collection[int] | None = None,
    fingerprint: str | None = None,
    actor: str | None = None,
) -> int:
    """Mark failed objects as resolved without doing them, and return how many. Without a choice, all.

    The migration stays as it is; a retry that finds nothing left to do makes it applied. Raise `CannotResolve`
    without a reason or where a retry would begin with the object, `InvalidTransition` while it is active.
    """
    if not reason.strip():
        raise CannotResolve("Say why these objects need not be done: the reason is kept with them.")
    with actors.acting(actor) as who:
        choice = resolving.chosen(ids, fingerprint)
        return resolving.resolve(db_alias, key, choice, reason=reason.strip(), actor=who)


def restart(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Begin a new attempt from the first row. Raise as `retry` does."""
    migration = store.get(key)
    migration.check_dependencies(db_alias)
    with actors.acting(actor) as who:
        if _runs_itself(db_alias, key):
            _launch_again(migration, db_alias, "restart", actor=who)
        else:
            vet(migration, db_alias)
            _send_plan(db_alias, attempts.restart(db_alias, key, actor=who, source_hash=migration.source_hash))


def fake(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Mark as applied without running. Raise `InvalidTransition` while it is queued or running, or if it is applied."""
    store.get(key).check_db_alias(db_alias)
    with actors.acting(actor) as who:
        attempts.fake(db_alias, key, actor=who)


def forget(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Delete the record, but not its events. The file need not exist any more.

    Raise `InvalidTransition` while it is queued or running, or when there is no record.
    """
    with actors.acting(actor) as who:
        attempts.forget(db_alias, key, actor=who)
    record_cache.forget(key, db_alias)


def status(key: str, db_alias: str = DEFAULT) -> Reading | None:
    """How far a migration is: status, objects done and in total, rate, seconds left. None: it was never launched."""
    return progress.read(key, db_alias, with_elapsed=True)


def wait(key: str, db_alias: str = DEFAULT, *, timeout: float | None = None, interval: float = 0.5) -> Reading:
    """Wait until a migration is no longer queued or running, and return how it stands then.

    `timeout` and `interval` are seconds. Raise `TimeoutError` when it is still active after `timeout`, and
    `InvalidTransition` when it was never launched or was forgotten. With the in-process backend its jobs go on in
    threads of this process.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        reading = progress.read(key, db_alias)
        if reading is None:
            raise InvalidTransition(f"Migration {key!r} has no record on database {db_alias!r}; launch it first.")
        if not reading.is_active:
            return status(key, db_alias) or reading
        if until is not None and time.monotonic() >= until:
            raise TimeoutError(
                f"Migration {key!r} on database {db_alias!r} is still {reading.status} after {timeout} s."
            )
        time.sleep(interval)


def heal(db_alias: str = DEFAULT) -> int:
    """Send everything that is stuck again, and return how many jobs that were. Harmless at any time, in any number."""
    return healing.heal(db_alias)


def send(key: str, db_alias: str = DEFAULT) -> None:
    """Send what is left of a migration that is queued or running; nothing otherwise. Harmless at any time."""
    record = records.get(db_alias, key)
    if record is not None and record.is_managed and record.status in ACTIVE:
        _send_plan(db_alias, record)


def backend_health(key: str) -> BackendHealth:
    """How the queue of a migration and its workers are. Never raises: what is wrong is its `problem`."""
    return offering.health(key)


def backend_actions(records: Sequence[MigrationRecord]) -> list[AdminAction]:
    """What the backends of these records let an operator do, beside the verbs above."""
    return list(offering.of_records(records).values())


def perform_backend_action(
    name: str, keys: Sequence[str], db_alias: str = DEFAULT, *, actor: str | None = None
) -> list[str]:
    """Have backends do what they offer under this name, and return what they say, one text for each backend.

    It is an event of each migration, whether it fails or not. Raise `BackendActionFailed`.
    """
    with actors.acting(actor) as who:
        return offering.perform(name, keys, db_alias, actor=who)


def initiate_migration(migration: BaseMigration, db_alias: str) -> None:
    """Launch a migration, or retry it if it failed or was cancelled. Raise as these do."""
    is_retry = can_start_migration(migration, db_alias) and migration_was_started(migration, db_alias)
    (retry if is_retry else launch)(migration.key, db_alias)


def _runs_itself(db_alias: str, key: str) -> bool:
    record = records.get(db_alias, key)
    return record is not None and not record.is_managed


def _launch_again(migration: BaseMigration, db_alias: str, verb: str, *, actor: str) -> None:
    """There is no cursor to go on from; and whether jobs run it this time, its launch decides."""
    migration.check_db_alias(db_alias)
    old = attempts.forget(db_alias, migration.key, actor=actor, verb=verb, sources=attempts.RETRIED)
    try:
        with reporting.launching():
            migration.launch(db_alias)
    except Exception as error:
        attempts.put_back(db_alias, old, actor=actor, error=error)
        raise


def _send_plan(db_alias: str, record: MigrationRecord) -> None:
    """A plan job sends whatever is not done, planned or not."""
    job = Job(
        kind=JobKind.PLAN,
        key=record.key,
        db_alias=db_alias,
        attempt_id=str(record.attempt_id),
        stage=record.stage,
    )
    handler.backend_of_job(record.key, record.backend).enqueue(job)
