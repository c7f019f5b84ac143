"""The base class of every migration."""

from __future__ import annotations

import datetime as dt
import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from django.db import connections

from massmigration.definitions.stages import Stage
from massmigration.exceptions import BadMigrationFile, DatabaseNotAllowed, DependencyNotApplied
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration.throttling import Passed


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

    throttle: Sequence[Callable[[Passed], dt.timedelta | None]] = ()
    """Callables that are told of each batch, and return how long to wait before the next; None: not at all.

    Those of the setting `MASSMIGRATION_THROTTLE` are asked as well; the longest wait counts.
    """

    backend_method: str | None = None
    """The method of the backend that runs it. For custom kinds of migrations on custom backends."""

    launch_through_engine: ClassVar[Callable[[BaseMigration, str], None] | None] = None
    """Set by the layer that knows the backends; definitions know none."""

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

    def get_allowed_db_aliases(self) -> list[str]:
        return list(connections) if self.allowed_db_aliases is None else list(self.allowed_db_aliases)

    def check_db_alias(self, db_alias: str) -> None:
        """Raise `DatabaseNotAllowed` if it may not run on `db_alias`."""
        allowed = self.get_allowed_db_aliases()
        if db_alias not in allowed:
            names = ", ".join(map(repr, allowed))
            raise DatabaseNotAllowed(
                f"Migration {self.key!r} is not allowed on database {db_alias!r}; allowed: {names}."
            )

    def check_dependencies(self, db_alias: str) -> None:
        """Raise `DependencyNotApplied` if a migration that it depends on is not applied on `db_alias`."""
        needed = [f"{app_label}:{name}" for app_label, name in self.dependencies]
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
        """Hand the migration to its backend. One that overrides this without calling it owns its run."""
        engine = type(self).launch_through_engine
        if engine is None:
            raise BadMigrationFile(
                "Migrations are launched after Django's setup: add 'massmigration' to INSTALLED_APPS."
            )
        engine(self, db_alias)
