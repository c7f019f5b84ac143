"""The exceptions of this project. The docstring of a class is its default message."""

from __future__ import annotations

import datetime as dt

from django.core.exceptions import ImproperlyConfigured
from django.core.management import base


class MassMigrationError(Exception):
    """A mass migration failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class MigrationNotFound(MassMigrationError, LookupError, ValueError):
    """There is no migration with that app label and name."""


class BadMigrationFile(MassMigrationError, ImproperlyConfigured):
    """The migration file cannot be used."""


class TransactionTooLarge(MassMigrationError):
    """A transaction would write more documents or bytes than Datastore and Firestore allow."""


class BadQuerySet(MassMigrationError, ValueError):
    """The migration's queryset cannot be processed in batches."""


class BadBackend(MassMigrationError, ImproperlyConfigured):
    """The backend named in the settings or by the migration cannot be used."""


class BadPayload(MassMigrationError, ValueError):
    """A queue delivered a payload that is not a job of this version."""


class DatabaseNotAllowed(MassMigrationError):
    """The migration is not allowed on that database."""


class DependencyNotApplied(MassMigrationError):
    """A dependency of the migration is not applied."""


class RequiredMigrationNotApplied(MassMigrationError):
    """Code was called that requires a migration that is not applied."""


class CannotEnsure(MassMigrationError):
    """A single object cannot be migrated separately."""


class GateClosed(RequiredMigrationNotApplied, base.CommandError):
    """A schema migration requires a mass migration that is not applied."""


class RecordsUnreadable(MassMigrationError, ImproperlyConfigured):
    """The tables of massmigration are missing on that database, or out of date."""


class DatabaseReadOnly(MassMigrationError):
    """The database is read-only: it is a replica, or its server is in a failover."""


class DatabaseAccessDenied(MassMigrationError):
    """The database user lacks a privilege that the action needs."""


class StatementTimedOut(MassMigrationError):
    """The database ended a statement of the action, because the statement exceeded a time limit."""


class AlreadyLaunched(MassMigrationError):
    """The migration has already been launched on that database."""


class InvalidTransition(MassMigrationError):
    """The current status of the migration does not allow the action."""


class ActionRefused(MassMigrationError):
    """The migration refuses the action. Raised by the migration's `check_action`."""


class ActionFailed(MassMigrationError):
    """The migration's own action failed."""


class NotNow(MassMigrationError):
    """The operation cannot run now. Raised by operations, to be called again after a delay."""

    def __init__(self, message: str | None = None, *, delay: dt.timedelta | None = None) -> None:
        super().__init__(message)
        given: object = delay
        if given is not None and not (isinstance(given, dt.timedelta) and given >= dt.timedelta(0)):
            raise ValueError(f"NotNow(delay={given!r}): the delay must be a timedelta that is not negative, or None.")
        self.delay = delay
        """How long to wait, or None for a quarter of `MASSMIGRATION_LEASE`."""


class BatchInFlight(MassMigrationError):
    """A batch has not finished yet. Try again in a moment."""


class InsideTransaction(MassMigrationError, RuntimeError):
    """The function cannot be called inside a transaction."""


class CannotResolve(MassMigrationError):
    """The failed objects cannot be retried or marked as resolved."""


class BadPace(MassMigrationError, ValueError):
    """The pace is not allowed."""


class CannotMeasure(MassMigrationError):
    """A throttle cannot measure the load of the server."""


class CannotDryRun(MassMigrationError):
    """A dry run of the migration is not possible, or the database is too busy for it."""


class BackendActionFailed(MassMigrationError):
    """The backend could not perform the action."""


class LostShard(MassMigrationError):
    """Another worker now owns the shard."""


class NoProgress(MassMigrationError):
    """The cursor of a shard did not advance in several attempts."""


class IdleLimitExceeded(MassMigrationError):
    """The server ended the batch's transaction, because the operation left the connection idle for too long."""


class DataOperationFailed(MassMigrationError, base.CommandError):
    """A data operation in a schema migration could not be completed."""


class DDLInBatch(MassMigrationError):
    """The operation changed the schema inside a batch, which would commit part of the batch."""


class ExitRaised(MassMigrationError):
    """The code of a migration raised `SystemExit` or a similar exception, which would have stopped the worker."""


class RowNotWritten(MassMigrationError):
    """A row that exists or was locked is not found by the statement that writes it."""


class KeyChanged(MassMigrationError):
    """The operation changed the primary key of its object."""


# Names of django-mass-migration.

MigrationError = MassMigrationError
MigrationAlreadyStarted = AlreadyLaunched
DependentMigrationNotApplied = DependencyNotApplied
CannotRunOnDB = DatabaseNotAllowed
DbAliasNotAllowed = DatabaseNotAllowed
