"""The actions and questions of operators and code. Functions take the key of a migration and a database alias.

A key is `app_label:name`. Refusals are subclasses of `MassMigrationError`; pages and commands show their messages.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any

from django.db import DatabaseError, transaction

from massmigration import actors, progress, record_cache, text
from massmigration.backends import actions, handler, worker
from massmigration.backends.base import AdminAction, BackendHealth
from massmigration.definitions import unmanaged
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.details import MigrationAction, actions_of
from massmigration.definitions.stages import question_of
from massmigration.definitions.validation import validate
from massmigration.dialects.errors import is_access_denied, is_read_only, is_timeout, with_advice
from massmigration.exceptions import (
    ActionFailed,
    AlreadyLaunched,
    BadPace,
    BatchInFlight,
    CannotResolve,
    DatabaseAccessDenied,
    DatabaseReadOnly,
    InvalidTransition,
    MassMigrationError,
    StatementTimedOut,
)
from massmigration.loader import store
from massmigration.models import MigrationRecord, Switch
from massmigration.pace import Pace
from massmigration.progress import Progress
from massmigration.recorder import attempts, events, records, switch, tables
from massmigration.recorder import pace as recorder_pace
from massmigration.recorder.events import announce
from massmigration.signals import migration_paused
from massmigration.states import ACTIVE, Status


def get_all_migrations() -> list[BaseMigration]:
    """Return all migrations of the installed apps in the order of their dependencies."""
    return store.all


def migration_is_applied(migration: BaseMigration, db_alias: str) -> bool:
    """Return whether the migration is applied. A positive answer is cached."""
    return record_cache.is_applied(migration.key, db_alias)


def migration_was_started(migration: BaseMigration, db_alias: str) -> bool:
    """Return whether the migration has a record, whatever its status."""
    return records.get(db_alias, migration.key) is not None


def migration_is_in_progress(migration: BaseMigration, db_alias: str) -> bool:
    """Return whether the migration is queued, running, waiting or paused."""
    record = records.get(db_alias, migration.key)
    return record is not None and record.in_progress


def can_start_migration(migration: BaseMigration, db_alias: str) -> bool:
    """Return whether the migration can be launched or retried: it has no record, has failed or was cancelled."""
    record = records.get(db_alias, migration.key)
    return record is None or record.status in (Status.FAILED, Status.CANCELLED)


__all__ = [
    "DEFAULT",
    "backend_actions",
    "backend_health",
    "can_start_migration",
    "cancel",
    "fake",
    "forget",
    "get_all_migrations",
    "get_pace",
    "initiate_migration",
    "launch",
    "migration_actions",
    "migration_is_applied",
    "migration_is_in_progress",
    "migration_was_started",
    "not_sent",
    "pause",
    "pause_all",
    "paused_all",
    "perform_action",
    "perform_backend_action",
    "proceed",
    "recover",
    "resolve",
    "restart",
    "resume",
    "resume_all",
    "retry",
    "retry_failed",
    "send",
    "set_pace",
    "status",
    "stop_after",
    "wait",
]

DEFAULT = "default"

RESERVED = (
    *("launch", "pause", "resume", "proceed", "cancel", "retry", "restart", "fake", "forget"),
    *("recover", "status", "run", "delete", "pace", "pause-all", "resume-all"),
)
"""Names that the actions of a migration must not have, because commands or pages use them."""

logger = logging.getLogger(__name__)


def launch(
    key: str,
    db_alias: str = DEFAULT,
    *,
    stop_after_rows: int | None = None,
    stop_after_time: dt.timedelta | None = None,
    actor: str | None = None,
) -> None:
    """Start a migration in the background.

    `stop_after_rows`, `stop_after_time`: let it pause by itself, as `stop_after` does.

    Raise `MigrationNotFound`, `BadMigrationFile`, `BadQuerySet`, `DatabaseNotAllowed`, `DependencyNotApplied`,
    `RecordsUnreadable`, `DatabaseReadOnly`, `DatabaseAccessDenied`, `StatementTimedOut`, or `AlreadyLaunched` if it has
    a record. If the job cannot be sent, an event is recorded and recovery sends it later.
    """
    _check_stop(stop_after_rows, stop_after_time)
    migration = store.get(key)
    migration.check_db_alias(db_alias)
    migration.check_action("launch", db_alias)
    try:
        record = records.get(db_alias, key)
    except DatabaseError:
        tables.require(db_alias)
        raise
    if record is not None:
        raise AlreadyLaunched(records.already_launched(db_alias, record))
    migration.check_dependencies(db_alias)
    with _acting(db_alias, actor) as actor, unmanaged.tracking_attempt(), contextlib.ExitStack() as stack:
        if stop_after_rows is not None or stop_after_time is not None:
            stop = partial(recorder_pace.stop_after, db_alias, key, stop_after_rows, stop_after_time, actor=actor)
            stack.enter_context(records.after_insert(lambda record: stop()))
        migration.launch(db_alias)


def _check_stop(rows: int | None, time: dt.timedelta | None) -> None:
    if (rows is not None and rows < 1) or (time is not None and time <= dt.timedelta(0)):
        raise BadPace(f"Found {rows!r} rows and a time of {time!r}; both must be above zero. Nothing was changed.")


def not_sent(key: str, db_alias: str = DEFAULT) -> str:
    """Return why the job of the last action could not be sent, or an empty string. Recovery sends it later."""
    record = records.get(db_alias, key)
    detail = events.not_sent(db_alias, key, record.attempt_id) if record else ""
    return detail and (
        f"{key} waits, because its job could not be sent ({detail}). When the queue is available again, send it with: "
        "manage.py massmigrate --recover"
    )


def set_pace(
    key: str, db_alias: str = DEFAULT, *, actor: str | None = None, sends: bool = True, **changes: Any
) -> Pace:
    """Change how fast a migration runs, from the next batch of each worker on, and return its pace.

    `massmigration.pace.SETTABLE` has the names of the changes; None resets one to what the migration's file
    and the settings say. `sends`: also send jobs, so that waiting shards continue at once.

    Raise `BadPace` for a value that is not allowed, and `InvalidTransition` if the migration has no record, is applied
    or is unmanaged.
    """
    with _acting(db_alias, actor) as actor:
        with attempts.lock_wait_bounded(db_alias, key):
            record = recorder_pace.change(db_alias, key, changes, actor=actor)
        if sends and record.status in ACTIVE:
            _send_plan(db_alias, record)
    return Pace.of(record.pace)


def get_pace(key: str, db_alias: str = DEFAULT) -> Pace:
    """Return the pace that operators have set for a migration. Without a record, nothing is set."""
    record = records.get(db_alias, key)
    return Pace.of(record.pace) if record else Pace()


def stop_after(
    key: str,
    db_alias: str = DEFAULT,
    *,
    rows: int | None = None,
    time: dt.timedelta | None = None,
    actor: str | None = None,
) -> None:
    """Let a migration pause by itself after this number of further rows or this time, whichever is first.

    Each worker processes at most one batch more. Without both, a stop that was requested before is removed.

    Raise `BadPace` unless both are above zero, and `InvalidTransition` if the migration has no record, is applied or is
    unmanaged.
    """
    _check_stop(rows, time)
    with _acting(db_alias, actor) as actor, attempts.lock_wait_bounded(db_alias, key):
        recorder_pace.stop_after(db_alias, key, rows, time, actor=actor)


def pause_all(db_alias: str = DEFAULT, *, reason: str = "", actor: str | None = None) -> bool:
    """Start no further batch, claim or stage of any migration of a database. Return False if it is so already.

    The statuses of the migrations do not change. Batches that have started still finish.
    """
    tables.require(db_alias)
    with _acting(db_alias, actor) as actor:
        return switch.turn(db_alias, on=True, actor=actor, reason=text.clean(reason, text.MAX_LINE))


def resume_all(db_alias: str = DEFAULT, *, actor: str | None = None) -> bool:
    """End `pause_all`, and send jobs for all active migrations. Return False if nothing was paused."""
    tables.require(db_alias)
    with _acting(db_alias, actor) as actor:
        was_on = switch.turn(db_alias, on=False, actor=actor)
        if was_on:
            active = MigrationRecord.objects.using(db_alias).filter(status__in=ACTIVE, is_managed=True)
            for record in active:
                _send_plan(db_alias, record)
        return was_on


def paused_all(db_alias: str = DEFAULT) -> Switch | None:
    """Return the switch of `pause_all` if it is on, with who changed it, when and why; otherwise None."""
    return switch.get(db_alias)


def pause(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Stop after the current batch. Raise `InvalidTransition` unless the migration is queued or running."""
    with _acting(db_alias, actor) as actor, attempts.lock_wait_bounded(db_alias, key):
        records.move(db_alias, key, Status.PAUSED, "pause", actor=actor)
        transaction.on_commit(partial(announce, migration_paused, key, db_alias, actor=actor), using=db_alias)


def resume(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Continue a paused migration.

    Raise `InvalidTransition` unless it is paused, and `MigrationNotFound` or `BadMigrationFile` without a usable file.
    """
    store.get(key).check_action("resume", db_alias)
    with _acting(db_alias, actor) as actor:
        with attempts.lock_wait_bounded(db_alias, key):
            record = records.resume(db_alias, key, actor=actor)
        _send_plan(db_alias, record)


def proceed(key: str, db_alias: str = DEFAULT, *, stage: int | None = None, actor: str | None = None) -> None:
    """Confirm the question of the stage in which a migration waits, so that the migration continues after the stage.

    `stage`: the stage whose question was confirmed. If the migration has left it, nothing is changed. Raise
    `InvalidTransition` unless the migration is waiting, and `MigrationNotFound` or `BadMigrationFile` without a usable
    file.
    """
    migration = store.get(key)
    record = records.require(db_alias, key, "proceed", {Status.WAITING})
    if stage not in (None, record.stage):
        raise InvalidTransition(records.proceeded_meanwhile(db_alias, key))
    question = question_of(migration, record.stage)
    if not question:
        raise InvalidTransition(
            f"Cannot proceed with migration {key!r} on database {db_alias!r}: the file was changed, and its stage "
            f"{record.stage} does not wait for an operator. Cancel the migration, then retry it: the retry runs this "
            "stage."
        )
    migration.check_action("proceed", db_alias)
    with _acting(db_alias, actor) as actor:
        with attempts.lock_wait_bounded(db_alias, key):
            record = records.proceed(db_alias, record, question, actor=actor)
        _send_plan(db_alias, record)


def cancel(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """End the attempt after the current batch.

    Raise `InvalidTransition` unless the migration is queued, running, waiting or paused.
    """
    with _acting(db_alias, actor) as actor, attempts.lock_wait_bounded(db_alias, key):
        records.move(db_alias, key, Status.CANCELLED, "cancel", actor=actor)


def retry(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Start a new attempt that continues from where the last one ended, including failed objects.

    Raise `InvalidTransition` unless the migration has failed or was cancelled, and `BatchInFlight` if a batch of the
    old attempt does not end within `MASSMIGRATION_LOCK_WAIT`.
    """
    _start_attempt(key, db_alias, "retry", attempts.retry, actor=actor)


def retry_failed(
    key: str,
    db_alias: str = DEFAULT,
    *,
    ids: Collection[int] | None = None,
    fingerprint: str | None = None,
    actor: str | None = None,
) -> None:
    """Retry a migration with only some of its failed objects: by these ids, or by one cause.

    Objects beyond the cursors are processed, too. Raise what `retry` raises, and `CannotResolve` if no object matches.
    """
    migration = store.get(key)
    migration.check_dependencies(db_alias)
    migration.check_action("retry", db_alias)
    choice = attempts.chosen(db_alias, key, ids, fingerprint)
    with _acting(db_alias, actor) as actor:
        record = attempts.retry(db_alias, key, actor=actor, source_hash=migration.source_hash, choice=choice)
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
    """Mark failed objects as resolved without processing them, and return their number. Without a choice, mark all.

    The status does not change; a retry that has nothing left to do makes the migration applied. Raise `CannotResolve`
    without a reason, or if a retry would start with one of the objects; `InvalidTransition` while it is active.
    """
    if not reason.strip():
        raise CannotResolve("A reason is required. It is stored with the failed objects.")
    with _acting(db_alias, actor) as actor:
        choice = attempts.chosen(db_alias, key, ids, fingerprint)
        return attempts.resolve(db_alias, key, choice, reason=reason.strip(), actor=actor)


def restart(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Start a new attempt from the first row. Raise what `retry` raises."""
    _start_attempt(key, db_alias, "restart", attempts.restart, actor=actor)


def fake(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Mark a migration as applied without running it. Raise `InvalidTransition` if it is active or applied."""
    migration = store.get(key)
    migration.check_db_alias(db_alias)
    migration.check_action("fake", db_alias)
    with _acting(db_alias, actor) as actor:
        attempts.fake(db_alias, key, actor=actor)


def forget(key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> None:
    """Delete the record, but not its events. The migration's file may be missing.

    Raise `InvalidTransition` if the migration is queued or running, or has no record.
    """
    migration = store.by_key.get(key)
    if migration is not None:
        migration.check_action("forget", db_alias)
    with _acting(db_alias, actor) as actor:
        attempts.forget(db_alias, key, actor=actor)
    record_cache.forget(key, db_alias)


def status(key: str, db_alias: str = DEFAULT) -> Progress | None:
    """Return the progress of a migration, or None if it was never launched."""
    return progress.read(key, db_alias, with_elapsed=True)


def wait(key: str, db_alias: str = DEFAULT, *, timeout: float | None = None, interval: float = 0.5) -> Progress:
    """Wait until a migration is no longer queued or running, and return its progress. It may wait for an operator then.

    `timeout` and `interval` are seconds. Raise `TimeoutError` if it is still active after `timeout`, and
    `InvalidTransition` if it has no record. With `LocalBackend`, its jobs run in threads of this process meanwhile.
    """
    until = None if timeout is None else time.monotonic() + timeout
    while True:
        current = progress.read(key, db_alias)
        if current is None:
            raise InvalidTransition(f"Migration {key!r} has no record on database {db_alias!r}. Launch it first.")
        if not current.is_active:
            return status(key, db_alias) or current
        if until is not None and time.monotonic() >= until:
            raise TimeoutError(
                f"Migration {key!r} on database {db_alias!r} is still {current.status} after {timeout} s."
            )
        time.sleep(interval)


def recover(db_alias: str = DEFAULT) -> int:
    """Send the stuck jobs of a database again, and return their number. Safe at any time and as often as you like."""
    return worker.recover(db_alias)


def send(key: str, db_alias: str = DEFAULT) -> None:
    """Send jobs for the remaining work of a migration, if it is queued or running. Safe at any time."""
    record = records.get(db_alias, key)
    if record is not None and record.is_managed and record.status in ACTIVE:
        _send_plan(db_alias, record)


def backend_health(key: str) -> BackendHealth:
    """Return the state of a migration's queue and workers. Errors are returned as its `problem`, not raised."""
    return actions.health(key)


def backend_actions(records: Sequence[MigrationRecord]) -> list[AdminAction]:
    """Return the actions that the backends of these records offer in addition to the actions above."""
    return list(actions.for_records(records).values())


def perform_backend_action(
    name: str, keys: Sequence[str], db_alias: str = DEFAULT, *, actor: str | None = None
) -> list[str]:
    """Perform an action of the migrations' backends, and return the message of each backend.

    Record an event for each migration, even if the action fails. Raise `BackendActionFailed` if it does.
    """
    with _acting(db_alias, actor) as actor:
        return actions.perform(name, keys, db_alias, actor=actor)


def migration_actions(key: str, db_alias: str = DEFAULT) -> list[MigrationAction]:
    """Return the actions that a migration defines itself and offers now, in addition to the actions above.

    Raise `BadMigrationFile` for an impossible action, and what the migration's `get_actions` raises.
    """
    record = records.get(db_alias, key)
    status = Status(record.status) if record else None
    return actions_of(store.by_key.get(key), db_alias, status, reserved=RESERVED)


def perform_action(name: str, key: str, db_alias: str = DEFAULT, *, actor: str | None = None) -> str:
    """Perform an action that a migration defines itself, and return its result as a sentence, or an empty string.

    Record an event, even if the action fails. Raise `InvalidTransition` if the migration does not offer the action now,
    and `ActionFailed` if it raises anything but a `MassMigrationError`.
    """
    migration = store.get(key)
    migration.check_db_alias(db_alias)
    found = {action.name: action for action in migration_actions(key, db_alias)}
    if name not in found:
        offered = f"it offers {', '.join(found)}" if found else "it offers none"
        raise InvalidTransition(
            f"Migration {key!r} does not offer the action {name!r} on database {db_alias!r} now; {offered}. "
            "Nothing was changed."
        )
    with _acting(db_alias, actor) as actor:
        return _perform_action(found[name], key, db_alias, actor)


def _perform_action(action: MigrationAction, key: str, db_alias: str, actor: str) -> str:
    record = records.get(db_alias, key)
    attempt_id = record.attempt_id if record else None
    try:
        message = action.call(db_alias, actor) or ""
    except Exception as error:
        message = text.told(error)
        events.add(db_alias, key, action.name, attempt_id=attempt_id, actor=actor, detail=f"failed: {message}")
        if isinstance(error, MassMigrationError):
            raise
        logger.error("The action %s of migration %s failed.", action.name, key, exc_info=text.logged(error))
        raise ActionFailed(f"{action.label!r} of migration {key!r} failed: {message}") from error
    events.add(db_alias, key, action.name, attempt_id=attempt_id, actor=actor, detail=message)
    return message


def initiate_migration(migration: BaseMigration, db_alias: str) -> None:
    """Launch a migration, or retry it if it has failed or was cancelled. Raise what these raise."""
    is_retry = can_start_migration(migration, db_alias) and migration_was_started(migration, db_alias)
    (retry if is_retry else launch)(migration.key, db_alias)


@contextlib.contextmanager
def _acting(db_alias: str, actor: str | None) -> Iterator[str]:
    """Set the actor of an action, and translate errors of privileges, read-only databases and timeouts."""
    with actors.acting(actor) as actor:
        try:
            yield actor
        except (DatabaseError, BatchInFlight) as error:
            cause = error.__cause__ if isinstance(error, BatchInFlight) else error
            if isinstance(error, DatabaseError) and is_timeout(error):
                raise StatementTimedOut(f"Nothing was changed: {text.safe(with_advice(error))}") from error
            if isinstance(error, DatabaseError) and is_access_denied(error):
                raise DatabaseAccessDenied(
                    f"Database {db_alias!r}: {text.safe(error).strip()}. Nothing was changed. Grant the database user "
                    "SELECT, INSERT, UPDATE and DELETE on the tables whose names begin with massmigration_, or use a "
                    "user that has these privileges."
                ) from error
            if cause is None or not is_read_only(cause):
                raise
            raise DatabaseReadOnly(
                f"Database {db_alias!r} is read-only ({text.safe(cause).strip()}). Nothing was changed. Use the alias "
                "of the primary server, and exclude replicas with allowed_db_aliases. After a failover, try again."
            ) from error


def _start_attempt(
    key: str, db_alias: str, verb: str, start: Callable[..., MigrationRecord], *, actor: str | None
) -> None:
    migration = store.get(key)
    migration.check_dependencies(db_alias)
    migration.check_action(verb, db_alias)
    with _acting(db_alias, actor) as actor:
        if _is_unmanaged(db_alias, key):
            _launch_again(migration, db_alias, verb, actor=actor)
        else:
            validate(migration, db_alias)
            _send_plan(db_alias, start(db_alias, key, actor=actor, source_hash=migration.source_hash))


def _is_unmanaged(db_alias: str, key: str) -> bool:
    record = records.get(db_alias, key)
    return record is not None and not record.is_managed


def _launch_again(migration: BaseMigration, db_alias: str, verb: str, *, actor: str) -> None:
    """Launch an unmanaged migration again. It has no cursor, and `launch()` may decide to send jobs this time."""
    migration.check_db_alias(db_alias)
    old = attempts.forget(db_alias, migration.key, actor=actor, verb=verb, sources=attempts.RETRIED)
    try:
        with unmanaged.tracking_attempt():
            migration.launch(db_alias)
    except Exception as error:
        attempts.restore(db_alias, old, actor=actor, error=error)
        raise


def _send_plan(db_alias: str, record: MigrationRecord) -> None:
    """Send a plan job, which in turn sends the jobs of all unfinished shards."""
    handler.sender_of_job(record.key, record.backend).enqueue(record.job())
