"""The base class of custom backends that were written for django-mass-migration."""

from __future__ import annotations

from typing import Any

from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadBackend


class BackendBase:
    """Base class of custom backends that run migrations by themselves. Instances are made without arguments.

    A migration is passed to the method that its `backend_method` names; the two methods here are for the core's
    own kinds. They report progress with `wrapped_operation` and the `mark_as_` methods of the migration.
    """

    def run_simple(self, migration: Any, db_alias: str) -> None:
        """Run a `SimpleMigration`: call `migration.wrapped_operation(db_alias)`, which does everything else."""
        raise _missing(self, "run_simple", migration)

    def run_mapper(self, migration: Any, db_alias: str) -> None:
        """Run a `MapperMigration`: process every object of `migration.get_queryset(db_alias)`.

        Call `attempt_uuid = migration.mark_as_started(db_alias)`, then for each object
        `migration.wrapped_operation(obj, attempt_uuid, db_alias)`, and at the end
        `migration.mark_as_finished(db_alias, attempt_uuid)`.
        """
        raise _missing(self, "run_mapper", migration)


def _missing(backend: object, method: str, migration: BaseMigration) -> BadBackend:
    return BadBackend(f"{type(backend).__qualname__} has no {method}(), which migration {migration.key!r} needs.")
