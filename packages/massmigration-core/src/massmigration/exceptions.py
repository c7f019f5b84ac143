"""Every exception this project raises on purpose."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.core.management import base


class MassMigrationError(Exception):
    """Something went wrong in a mass migration."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.__doc__)


class MigrationNotFound(MassMigrationError, LookupError, ValueError):
    """There is no migration file with that app and name."""


class BadMigrationFile(MassMigrationError, ImproperlyConfigured):
    """The migration file cannot be used as it is."""


class BadQuerySet(MassMigrationError, ValueError):
    """The migration's queryset cannot be worked through in batches."""


class BadBackend(MassMigrationError, ImproperlyConfigured):
    """The backend named in the settings or by the migration cannot be used."""


class BadPayload(MassMigrationError, ValueError):
    """A queue delivered something that is not a job of this version."""


class DatabaseNotAllowed(MassMigrationError):
    """The migration is not allowed on that database."""


class DependencyNotApplied(MassMigrationError):
    """A migration that this one depends on has not been applied."""


class RequiredMigrationNotApplied(MassMigrationError):
    """Code was called that requires a migration which has not been applied."""


class CannotEnsure(MassMigrationError):
    """One object cannot be migrated by itself."""


class GateClosed(RequiredMigrationNotApplied, base.CommandError):
    """A schema migration requires a mass migration that has not been applied."""


class RecordsUnreadable(MassMigrationError, ImproperlyConfigured):
    """The table of records is missing on that database, or out of date."""


class AlreadyLaunched(MassMigrationError):
    """The migration has been launched before on that database."""


class InvalidTransition(MassMigrationError):
    """The record cannot move to that status from its present one."""


class BatchInFlight(MassMigrationError):
    """A batch is still being finished; try again in a moment."""


class InsideTransaction(MassMigrationError, RuntimeError):
    """The caller is in a transaction, of which this cannot be a part."""


class CannotResolve(MassMigrationError):
    """Failed objects cannot be retried or marked as resolved as asked."""


class CannotDryRun(MassMigrationError):
    """The migration cannot be tried without effect, or the database is too busy for it."""


class BackendActionFailed(MassMigrationError):
    """The backend could not do what an operator asked it for."""


class LostShard(MassMigrationError):
    """Another worker owns the shard now."""


class IdleLimitExceeded(MassMigrationError):
    """The operation left its connection idle for so long that the server ended the batch's transaction."""


class DataOperationFailed(MassMigrationError, base.CommandError):
    """An operation on data in one of Django's migrations could not be brought to its end."""


class DDLInBatch(MassMigrationError):
    """The operation changed the schema inside a batch, which would commit half of it."""


class ExitRaised(MassMigrationError):
    """A migration's code raised `SystemExit` or `KeyboardInterrupt`, which would have ended its worker."""


class KeyChanged(MassMigrationError):
    """The operation changed the primary key of its object."""


# The names that django-mass-migration had.

MigrationError = MassMigrationError
MigrationAlreadyStarted = AlreadyLaunched
DependentMigrationNotApplied = DependencyNotApplied
CannotRunOnDB = DatabaseNotAllowed
DbAliasNotAllowed = DatabaseNotAllowed
