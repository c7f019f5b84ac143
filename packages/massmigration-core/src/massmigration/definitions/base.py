"""The base classes of migration files: migrations that are one call, or that are mapped over a queryset."""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from django.db import connections
from django.db.models import QuerySet

from massmigration import text
from massmigration.conf import settings
from massmigration.definitions import unmanaged
from massmigration.definitions.details import Detail, MigrationAction
from massmigration.definitions.stages import CommonOptions, MappedStage, OnceStage, Stage, StageOptions, WaitStage
from massmigration.exceptions import BadMigrationFile, DatabaseNotAllowed, DependencyNotApplied
from massmigration.models import MigrationRecord
from massmigration.recorder import records
from massmigration.states import Status
from massmigration.throttling import CompletedBatch, Request

logger = logging.getLogger(__name__)


def get_all_db_aliases() -> list[str]:
    """Return the aliases of the project's databases."""
    return list(connections)


class BaseMigration:
    """A data migration. Each one is a class named `Migration` in its own file."""

    dependencies: Sequence[tuple[str, str]] = ()
    """The migrations that must be applied before this one, as (app label, name)."""

    allowed_db_aliases: Sequence[str] | None = None
    """Aliases of the databases that the migration may run on (default: all)."""

    backend: str | None = None
    """Dotted path of the migration's backend (default: the setting `MASSMIGRATION_BACKEND`)."""

    backend_params: dict[str, Any] | None = None
    """Parameters for the backend that apply to this migration only."""

    queue_name: str | None = None
    """Name of the queue that the migration's jobs are sent to (default: the backend's queue)."""

    atomic: bool = True
    """Whether each batch is one transaction that commits the rows together with the bookkeeping.

    Set it to False for operations with effects outside the database. They may be repeated after a crash.
    """

    idle_limit: dt.timedelta | None = None
    """How long a batch may leave its connection idle before the server ends its transaction.

    Default: the setting `MASSMIGRATION_IDLE_LIMIT`.
    """

    on_code_change: str = "event"
    """What to do if a worker runs another version of the file than the one that the attempt started with.

    `"event"`: record an event. `"pause"`: record an event and pause the migration.
    """

    on_fresh_database: str = "run"
    """What `migrate` does with a migration that is done once, if it has just created the app's tables.

    `"run"`: run the migration. `"fake"`: mark it as applied without running it. A migration that is mapped over objects
    is marked as applied if there are no objects.
    """

    runs_only_by_name: bool = False
    """Whether `massmigrate` runs the migration only if it is named, and passes it over if only its app is, or nothing.

    Set it to True for migrations that a person starts deliberately. `massmigrate --check` and the system checks do not
    report it as outstanding.
    """

    throttle: Sequence[Callable[[CompletedBatch], Request]] = ()
    """Callables that take a `CompletedBatch` and return how long to wait before the next batch, or None.

    The throttles of the setting `MASSMIGRATION_THROTTLE` are called, too. The longest wait counts.
    """

    backend_method: str | None = None
    """Name of the backend's method that runs the migration, for custom kinds of migrations on custom backends."""

    launch_through_engine: ClassVar[Callable[[BaseMigration, str], None] | None] = None
    """Called by `launch()`. The module `backends.handler` sets it: definitions do not import backends."""

    find_backend: ClassVar[Callable[[BaseMigration], Any] | None] = None
    """Called by `get_backend()`, and set by `backends.handler`, too."""

    def __init__(self, app_label: str, name: str) -> None:
        self.app_label = app_label
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key}>"

    @property
    def key(self) -> str:
        """The migration's identifier, `app_label:name`."""
        return f"{self.app_label}:{self.name}"

    @property
    def description(self) -> str:
        """The class's docstring."""
        return inspect.cleandoc(type(self).__dict__.get("__doc__") or "")

    @property
    def confirmation(self) -> str:
        """Sentences that an operator must confirm before the migration is launched; empty: no confirmation.

        Override this in migrations whose effect cannot be undone. Commands, pages and the admin ask for confirmation;
        the API does not.
        """
        return ""

    @property
    def source_path(self) -> Path | None:
        """The migration's file, or None if there is none."""
        try:
            return Path(inspect.getfile(type(self)))
        except (OSError, TypeError):
            return None

    @cached_property
    def source_hash(self) -> str:
        """SHA-256 of the migration's file as this process has loaded it; empty if there is no file."""
        try:
            return hashlib.sha256(self.source_path.read_bytes()).hexdigest() if self.source_path else ""
        except OSError:
            return ""

    def get_stages(self) -> Sequence[Stage]:
        """Return the stages in order. Each stage starts when the previous one has finished."""
        raise BadMigrationFile(
            f"Migration {self.key!r} defines neither stages nor launch(). Subclass SimpleMigration or MapperMigration, "
            "or override get_stages() or launch()."
        )

    def once(self, operation: Callable[..., None], **given: Any) -> OnceStage:
        """Return a stage that is one call, `operation(db_alias)`, or `operation(db_alias, context)` with
        `takes_context=True`.

        `given`: other arguments of `OnceStage`. They override the migration's attributes.
        """
        return OnceStage(operation=operation, **{**self._common_arguments(), **given})

    def mapped(self, **given: Any) -> MappedStage:
        """Return a stage that is mapped over a queryset.

        `given`: the arguments of `MappedStage`. Those that every stage has default to the migration's attributes.
        """
        return MappedStage(**{**self._common_arguments(), **given})

    def wait(self, question: str, *, meanwhile: Callable[[str], dt.timedelta] | None = None) -> WaitStage:
        """Return a stage that waits until an operator has confirmed `question`.

        `meanwhile`: called with `db_alias` while it waits. It returns when it wants to be called again.
        """
        return WaitStage(question=question, meanwhile=meanwhile, **self._common_arguments())

    def _common_arguments(self) -> dict[str, Any]:
        return {"name": self.key, **vars(CommonOptions.of(self))}

    @property
    def needed_keys(self) -> list[str]:
        """The keys of the migrations in `dependencies`. Raise `BadMigrationFile` if that is not a list of pairs."""
        found: Any = self.dependencies
        is_list = isinstance(found, (list, tuple))
        if not is_list or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in found):
            raise BadMigrationFile(
                f"Migration {self.key!r} has dependencies = {found!r}; it must be a list of (app label, name) pairs."
            )
        return [f"{app_label}:{name}" for app_label, name in found]

    def get_details(self, db_alias: str) -> Sequence[Detail]:
        """Return facts about the migration on one database, which pages and `massmigration status` show.

        Override it. The page calls it again every few seconds, so its queries must be fast.
        """
        return ()

    def get_actions(self, db_alias: str, status: Status | None) -> Sequence[MigrationAction]:
        """Return the migration's own actions that are possible now, as buttons and for the command `massmigration`.

        Override it. `status`: the migration's status on the database, or None if it was never launched.
        """
        return ()

    def check_action(self, action: str, db_alias: str) -> None:
        """Raise `ActionRefused`, or another `MassMigrationError`, if an operator must not perform the action now.

        Override it. Called before launch, resume, proceed, retry, restart, fake and forget change anything. Pause and
        cancel cannot be refused. `action`: the name of the action, for example `"forget"`.
        """

    def get_allowed_db_aliases(self) -> list[str]:
        """Return the aliases of the databases that the migration may run on."""
        return get_all_db_aliases() if self.allowed_db_aliases is None else list(self.allowed_db_aliases)

    def check_db_alias(self, db_alias: str) -> None:
        """Raise `DatabaseNotAllowed` if the migration may not run on `db_alias`, or allows an unknown database."""
        allowed = self.get_allowed_db_aliases()
        unknown = [name for name in allowed if name not in connections]
        if unknown:
            raise DatabaseNotAllowed(
                f"Migration {self.key!r} has {', '.join(map(repr, unknown))} in allowed_db_aliases; the databases of "
                f"this project are {', '.join(map(repr, connections))}."
            )
        if db_alias not in allowed:
            names = ", ".join(map(repr, allowed))
            raise DatabaseNotAllowed(
                f"Migration {self.key!r} is not allowed on database {db_alias!r}; allowed: {names}."
            )

    def check_dependencies(self, db_alias: str) -> None:
        """Raise `DependencyNotApplied` if a dependency is not applied on `db_alias`."""
        needed = self.needed_keys
        records = MigrationRecord.objects.using(db_alias).filter(key__in=needed)
        found = dict(records.values_list("key", "status"))
        missing = [f"{key!r} ({found.get(key, 'not run')})" for key in needed if found.get(key) != Status.APPLIED]
        if missing:
            raise DependencyNotApplied(
                f"Migration {self.key!r} cannot be launched on database {db_alias!r}: it depends on "
                f"{', '.join(missing)}, which must be applied first."
            )

    def get_migration_record(self, db_alias: str) -> MigrationRecord | None:
        """Return the migration's record on `db_alias`, or None."""
        return MigrationRecord.objects.using(db_alias).filter(key=self.key).first()

    def launch(self, db_alias: str) -> None:
        """Launch the migration through its backend.

        A migration that overrides this without calling it is unmanaged: like a custom backend, it reports its status
        through the `mark_as_` methods.
        """
        _connected(type(self).launch_through_engine)(self, db_alias)

    def can_be_started(self, db_alias: str) -> bool:
        """Return whether the migration has no record on `db_alias`."""
        return self.get_migration_record(db_alias) is None

    def mark_as_started(self, db_alias: str) -> UUID:
        """Insert the record of an unmanaged migration and return the attempt's id.

        Raise `AlreadyLaunched` if there is a record.
        """
        return unmanaged.start(self.key, db_alias, source_hash=self.source_hash)

    def mark_as_finished(self, db_alias: str, attempt_uuid: UUID | str | None = None) -> None:
        """Mark an unmanaged migration as applied. If the attempt has ended, log a warning and change nothing.

        `attempt_uuid`: the return value of `mark_as_started`. Pass it if you can: without it, a late worker ends the
        attempt that has replaced its own.
        """
        unmanaged.finish(self.key, db_alias, attempt_uuid)

    def mark_as_errored(
        self, db_alias: str, error: BaseException | str | None = None, attempt_uuid: UUID | str | None = None
    ) -> None:
        """Mark an unmanaged migration as failed. The arguments are the same as for `mark_as_finished`."""
        unmanaged.fail(self.key, db_alias, error, attempt_uuid)

    @property
    def backend_str(self) -> str:
        """Dotted path of the migration's backend."""
        return self.backend or settings.BACKEND

    def get_backend(self) -> Any:
        """Return the migration's backend."""
        return _connected(type(self).find_backend)(self)

    def get_backend_params(self) -> dict[str, Any]:
        """Return `backend_params`, or an empty dict."""
        return self.backend_params or {}


def _connected(hook: Callable[..., Any] | None) -> Callable[..., Any]:
    if hook is None:
        raise BadMigrationFile(
            "A migration was used before Django's setup was complete. Add 'massmigration' to INSTALLED_APPS, and "
            "launch migrations after django.setup()."
        )
    return hook


class SimpleMigration(BaseMigration):
    """A migration that is one call of `operation`, in one transaction with the bookkeeping."""

    backend_method = "run_simple"

    def operation(self, db_alias: str) -> None:
        """Change the data on the database `db_alias`."""
        raise NotImplementedError

    def get_stages(self) -> Sequence[Stage]:
        if type(self).operation is SimpleMigration.operation:
            raise BadMigrationFile(f"Migration {self.key!r} has no operation(self, db_alias) method; add one.")
        return [self.once(self.operation)]

    def wrapped_operation(self, db_alias: str) -> None:
        """Run the operation and keep its record: started, then applied or failed. For custom backends."""
        attempt_uuid = self.mark_as_started(db_alias)
        try:
            self.operation(db_alias)
        except Exception as error:
            logger.error("The operation of migration %s raised an exception.", self.key, exc_info=text.logged(error))
            self.mark_as_errored(db_alias, error, attempt_uuid)
        else:
            self.mark_as_finished(db_alias, attempt_uuid)


class MapperMigration(BaseMigration):
    """A migration that processes every object of a queryset, in batches.

    There are three ways to write objects:
    - `operation` alone: the operation saves the object itself.
    - `operation` with `update_fields`: the operation only assigns, and the engine writes the changed fields of the
      whole batch in one statement.
    - `operation_batch`: it gets each batch as a queryset, for instance to call `update()`.
    """

    backend_method = "run_mapper"

    update_fields: Sequence[str] | None = None
    """Names of the fields that the engine writes after `operation` (default: none, the operation saves)."""

    cursor_field: str | None = None
    """Name of the field that orders the batches. It must be unique and never null (default: the primary key)."""

    batch_size: int | None = None
    """Rows in each batch; at most so many with `operation` (default: adapts to `batch_duration`)."""

    first_batch_size: int | None = None
    """Rows in the first batch of a shard (default: `MASSMIGRATION_BATCH_SIZE`; at most 10 with `operation_batch`)."""

    batch_duration: dt.timedelta | None = None
    """Target duration of a batch, and so of its row locks (default: the setting `MASSMIGRATION_BATCH_DURATION`)."""

    pace: str | None = None
    """`"gentle"`, `"steady"` or `"full"` (default: the setting `MASSMIGRATION_PACE`)."""

    max_batch_size: int | None = None
    """Maximum number of rows in a batch (default: the setting for batches of this kind)."""

    max_batch_growth: float | None = None
    """How many times larger than the last batch the next one may be, at most (default: 4 times)."""

    on_error: str = "stop"
    """What to do if `operation` raises for an object.

    `"stop"`: commit everything before the object and fail the migration. A retry resumes at the object. `"continue"`:
    record the object as failed and continue. At the end the migration fails, and a retry processes the failed objects.
    """

    max_failures: int | None = StageOptions.max_failures
    """How many failed objects `on_error = "continue"` tolerates before it stops; None: any number."""

    max_consecutive_failures: int | None = StageOptions.max_consecutive_failures
    """At how many consecutive failed objects within a shard `"continue"` stops; None: never.

    So many in a row mean that the cause is not the objects.
    """

    max_failure_rate: float | None = None
    """Above which share of failed objects within a shard, once it has processed 100, `"continue"` stops.

    A number from 0 to 1; 1 means never (default: the setting `MASSMIGRATION_MAX_FAILURE_RATE`).
    """

    lock_rows: bool = True
    """Whether the objects passed to `operation` are locked until their batch commits.

    Without the locks, a concurrent edit survives in every column except those in `update_fields`. Without
    `update_fields`, `save()` overwrites it.
    """

    catch_up: bool = True
    """Whether further passes process the objects that have entered the queryset behind the cursor.

    There are further passes only if every processed object has left the queryset.
    """

    def get_queryset(self, db_alias: str) -> QuerySet[Any]:
        """Return the objects to process. The ordering is dropped: `cursor_field` orders the batches."""
        raise NotImplementedError

    def operation(self, obj: Any, db_alias: str) -> None:
        """Change one object."""
        raise NotImplementedError

    def operation_batch(self, queryset: QuerySet[Any], db_alias: str) -> None:
        """Change the objects of one batch, for instance with `queryset.update()`."""
        raise NotImplementedError

    def remaining(self, db_alias: str) -> int:
        """Return how many objects still need the migration. If defined, the migration is applied only at 0."""
        raise NotImplementedError

    def wrapped_operation(self, obj: Any, attempt_uuid: UUID | str, db_alias: str) -> bool:
        """Call `operation` for one object if the attempt is still running, and return whether it succeeded.

        For custom backends. If the operation raises, the attempt fails, and the caller can stop.
        """
        if not records.is_unmanaged_running(db_alias, self.key, attempt_uuid):
            logger.warning(
                "Attempt %s of migration %s has ended or was replaced: skipped object %r.",
                attempt_uuid,
                self.key,
                obj.pk,
            )
            return False
        try:
            self.operation(obj, db_alias)
        except Exception as error:
            message = "The operation of migration %s raised an exception for object %r."
            logger.error(message, self.key, obj.pk, exc_info=text.logged(error))
            self.mark_as_errored(db_alias, error, attempt_uuid)
            return False
        return True

    def get_stages(self) -> Sequence[Stage]:
        own = type(self)
        by_object = own.operation is not MapperMigration.operation
        by_batch = own.operation_batch is not MapperMigration.operation_batch
        self._check_methods(by_object=by_object, by_batch=by_batch)
        return [
            self.mapped(
                get_queryset=self.get_queryset,
                operation=self.operation if by_object else None,
                operation_batch=self.operation_batch if by_batch else None,
                update_fields=self.update_fields,
                cursor_field=self.cursor_field,
                remaining=self.remaining if own.remaining is not MapperMigration.remaining else None,
                **vars(StageOptions.of(self)),
            )
        ]

    def _check_methods(self, *, by_object: bool, by_batch: bool) -> None:
        problem = ""
        if type(self).get_queryset is MapperMigration.get_queryset:
            problem = "has no get_queryset(self, db_alias) method; add one"
        elif by_object and by_batch:
            problem = "has both operation() and operation_batch(); keep one"
        elif not by_object and not by_batch:
            problem = (
                "has neither operation(self, obj, db_alias) nor operation_batch(self, queryset, db_alias); add one"
            )
        elif by_batch and self.update_fields is not None:
            problem = "has update_fields, which operation_batch() does not use; remove one of them"
        elif isinstance(self.update_fields, str) or (self.update_fields is not None and not self.update_fields):
            problem = f"has update_fields = {self.update_fields!r}; it must be a list of field names"
        if problem:
            raise BadMigrationFile(f"Migration {self.key!r} {problem}.")
