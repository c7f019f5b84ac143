"""The base class of every migration."""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from django.db import connections

from massmigration.conf import settings
from massmigration.definitions import reporting
from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.exceptions import BadMigrationFile, DatabaseNotAllowed, DependencyNotApplied
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration.throttling import Passed


def get_all_db_aliases() -> list[str]:
    """The databases of the project."""
    return list(connections)


class BaseMigration:
    """One change of the data, in a file of its own, named `Migration`."""

    dependencies: Sequence[tuple[str, str]] = ()
    """The migrations, as (app label, name), that must be applied before this one."""

    allowed_db_aliases: Sequence[str] | None = None
    """The databases that it may run on; None: all."""

    backend: str | None = None
    """Dotted path of the backend that carries it; None: the setting's."""

    backend_params: dict[str, Any] | None = None
    """What the backend is told about this migration alone."""

    queue_name: str | None = None
    """The queue it goes to; None: the backend's."""

    atomic: bool = True
    """Whether rows and bookkeeping commit together, in a transaction around each batch.

    Set it to False for operations with effects elsewhere; they may then be repeated after a crash.
    """

    idle_limit: dt.timedelta | None = None
    """How long a batch may leave its connection idle before the server ends it; None: the setting's."""

    on_code_change: str = "event"
    """What to do when a worker has another version of the file than the attempt began with.

    `"event"`: leave an event. `"pause"`: pause, too.
    """

    on_fresh_database: str = "run"
    """What a `migrate` that has made the app's tables itself does with a migration that is done once.

    `"run"`: run it. `"fake"`: mark it as applied. One that is mapped over objects is applied where there are none.
    """

    throttle: Sequence[Callable[[Passed], dt.timedelta | None]] = ()
    """Callables that are told of each batch, and return how long to wait before the next; None: not at all.

    Those of the setting `MASSMIGRATION_THROTTLE` are asked as well; the longest wait counts.
    """

    backend_method: str | None = None
    """The method of the backend that runs it. For custom kinds of migrations on custom backends."""

    launch_through_engine: ClassVar[Callable[[BaseMigration, str], None] | None] = None
    """Set by the layer that knows the backends; definitions know none."""

    find_backend: ClassVar[Callable[[BaseMigration], Any] | None] = None
    """The same."""

    def __init__(self, app_label: str, name: str) -> None:
        self.app_label = app_label
        self.name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key}>"

    @property
    def key(self) -> str:
        """What identifies it everywhere: `app_label:name`."""
        return f"{self.app_label}:{self.name}"

    @property
    def description(self) -> str:
        """The class's docstring."""
        return inspect.cleandoc(type(self).__dict__.get("__doc__") or "")

    @property
    def confirmation(self) -> str:
        """What an operator is to confirm before it is launched, as sentences; empty: nothing.

        For migrations whose effect cannot be taken back. Commands, pages and the admin ask; calls of the API do not.
        """
        return ""

    @cached_property
    def source_hash(self) -> str:
        """SHA-256 of its file as this process loaded it; empty when there is no such file."""
        try:
            return hashlib.sha256(Path(inspect.getfile(type(self))).read_bytes()).hexdigest()
        except (OSError, TypeError):
            return ""

    def get_stages(self) -> Sequence[Stage]:
        """What is to be done, in order. Each stage begins when the one before it is done."""
        raise BadMigrationFile(
            f"Migration {self.key!r} says neither what to do nor how to launch it: subclass SimpleMigration or "
            "MapperMigration, or override launch()."
        )

    def once(self, operation: Callable[[str], None], **given: Any) -> OnceStage:
        """A stage that is done by one call, `operation(db_alias)`.

        `given`: other arguments of `OnceStage`, where they differ from the migration's own attributes.
        """
        return OnceStage(operation=operation, **{**self._of_every_stage(), **given})

    def mapped(self, **given: Any) -> MappedStage:
        """A stage that is mapped over a queryset.

        `given`: the arguments of `MappedStage`; those of every stage are the migration's own unless given.
        """
        return MappedStage(**{**self._of_every_stage(), **given})

    def _of_every_stage(self) -> dict[str, Any]:
        return {
            "name": self.key,
            "atomic": self.atomic,
            "throttle": self.throttle,
            "idle_limit": self.idle_limit,
        }

    @property
    def needed_keys(self) -> list[str]:
        """The keys of `dependencies`. Raise `BadMigrationFile` if that is not a list of pairs."""
        found: Any = self.dependencies
        is_list = isinstance(found, (list, tuple))
        if not is_list or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in found):
            raise BadMigrationFile(
                f"Migration {self.key!r} has dependencies = {found!r}; it must be a list of (app label, name) pairs."
            )
        return [f"{app_label}:{name}" for app_label, name in found]

    def get_allowed_db_aliases(self) -> list[str]:
        return get_all_db_aliases() if self.allowed_db_aliases is None else list(self.allowed_db_aliases)

    def check_db_alias(self, db_alias: str) -> None:
        """Raise `DatabaseNotAllowed` if it may not run on `db_alias`, or names databases that there are not."""
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
        """Raise `DependencyNotApplied` if a migration that it depends on is not applied on `db_alias`."""
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
        return MigrationRecord.objects.using(db_alias).filter(key=self.key).first()

    def launch(self, db_alias: str) -> None:
        """Hand the migration to its backend. One that overrides this without calling it runs itself.

        Such a one, like a custom backend, tells its record how it goes by the `mark_as_` methods.
        """
        _connected(type(self).launch_through_engine)(self, db_alias)

    def can_be_started(self, db_alias: str) -> bool:
        """Whether it has no record on `db_alias`."""
        return self.get_migration_record(db_alias) is None

    def mark_as_started(self, db_alias: str) -> UUID:
        """Insert the record of a migration that runs itself, and return the attempt's id.

        Raise `AlreadyLaunched` if there is a record.
        """
        return reporting.begin(self, db_alias)

    def mark_as_finished(self, db_alias: str, attempt_uuid: UUID | str | None = None) -> None:
        """Mark a migration that runs itself as applied. Ignored, with a warning, once the attempt has ended.

        `attempt_uuid`: what `mark_as_started` returned. Pass it wherever it is known: without it, a worker
        that is late ends the attempt that has replaced its own.
        """
        reporting.finish(self, db_alias, attempt_uuid)

    def mark_as_errored(
        self, db_alias: str, error: BaseException | str | None = None, attempt_uuid: UUID | str | None = None
    ) -> None:
        """Mark a migration that runs itself as failed. Otherwise as `mark_as_finished`."""
        reporting.fail(self, db_alias, error, attempt_uuid)

    @property
    def backend_str(self) -> str:
        """Dotted path of the backend that carries it."""
        return self.backend or settings.BACKEND

    def get_backend(self) -> Any:
        """The backend that carries it."""
        return _connected(type(self).find_backend)(self)

    def get_backend_params(self) -> dict[str, Any]:
        return self.backend_params or {}


def _connected(hook: Callable[..., Any] | None) -> Callable[..., Any]:
    if hook is None:
        raise BadMigrationFile("Migrations are launched after Django's setup: add 'massmigration' to INSTALLED_APPS.")
    return hook
