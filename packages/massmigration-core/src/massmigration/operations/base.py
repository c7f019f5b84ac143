"""What every operation on data is: one or more stages of a run, and an operation of Django's migrations too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

from django.db import router
from django.db.migrations.operations.base import Operation
from django.db.models import Model, QuerySet

from massmigration.definitions.stages import MappedStage, Stage
from massmigration.exceptions import BadMigrationFile
from massmigration.operations import in_schema_migrations
from massmigration.operations.context import Context
from massmigration.operations.lookup import find_model

try:
    from django.db.migrations.operations.base import OperationCategory
except ImportError:  # before Django 5.1
    OperationCategory = None  # type: ignore[assignment, misc]

_P = ParamSpec("_P")

_IGNORED = frozenset({"uid", "shard_count", "queue"})
"""What Djangae's operations are told and these find out, or have no need of."""


class DataOperation(Operation):
    """An operation on the rows of one model.

    In an `OperationsMigration` it is a stage of the run. In a migration of Django's it runs in the foreground, in
    batches, outside of a transaction; when it is interrupted, the next `migrate` goes on with it.
    """

    reduces_to_sql = False
    reversible = True
    """Can Django's migration be unapplied? What was filled in or copied stays as it is then."""

    if OperationCategory is not None:
        category = OperationCategory.PYTHON

    given: dict[str, Any]
    """What it was made with, by our own names."""

    model: str | type[Model]
    batch_size: int | None
    on_error: str | None

    def get_stages(self, context: Context) -> Sequence[Stage]:
        """What is to be done. Raise `BadMigrationFile` for what is known to be wrong without asking a database."""
        raise NotImplementedError

    def subject(self, context: Context) -> type[Model]:
        """The model whose rows it goes through."""
        return find_model(self, context, self.model)

    def check_database(self, context: Context, db_alias: str) -> None:
        """Raise `BadMigrationFile` for what is wrong on one database. Asked before it is launched there."""
        model = self.subject(context)
        if not router.allow_migrate_model(db_alias, model):
            raise self.refusal(
                context,
                f"the routers do not have {model._meta.label} on database {db_alias!r}. Name its database in "
                "allowed_db_aliases.",
            )

    def confirmation(self, context: Context) -> str:
        """What an operator is to confirm before it is launched, as a sentence; empty: nothing."""
        return ""

    def mapped(
        self,
        context: Context,
        get_queryset: Callable[[str], QuerySet[Any]],
        *,
        operation: Callable[[Model, str], None] | None = None,
        operation_batch: Callable[[QuerySet[Any], str], None] | None = None,
        update_fields: Sequence[str] | None = None,
        atomic: bool | None = None,
        is_statement: bool = False,
        empties: bool = False,
    ) -> MappedStage:
        """A stage with what the migration and the operation itself say about how to run."""
        on_error = self.on_error or context.on_error
        batch_size: Any = context.batch_size if self.batch_size is None else self.batch_size
        if on_error not in ("stop", "continue"):
            raise self.refusal(context, f"on_error = {on_error!r} is not possible; allowed: 'stop', 'continue'.")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise self.refusal(context, f"batch_size = {batch_size!r} is not possible; it must be 1 or more, or None.")
        return MappedStage(
            name=context.name,
            atomic=context.atomic if atomic is None else atomic,
            idle_limit=context.idle_limit,
            throttle=context.throttle,
            get_queryset=get_queryset,
            operation=operation,
            operation_batch=operation_batch,
            is_statement=is_statement,
            empties=empties,
            update_fields=update_fields,
            on_error=on_error,
            max_failures=context.max_failures,
            batch_size=batch_size,
        )

    def refusal(self, context: Context, problem: str) -> BadMigrationFile:
        """The error that says what is wrong with this operation."""
        return BadMigrationFile(f"{type(self).__name__} in migration {context.name!r}: {problem}")

    # As an operation of Django's migrations.

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        return type(self).__name__, [], dict(self.given)

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Data is no part of the models' state."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        in_schema_migrations.forwards(self, app_label, schema_editor, from_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Nothing is taken back; but forwards, it will be done again."""
        in_schema_migrations.backwards(self, app_label, schema_editor, from_state)

    def describe(self) -> str:
        told = [str(value) if isinstance(value, str) else _label(value) for value in list(self.given.values())[:3]]
        return f"Data: {type(self).__name__} {', '.join(filter(None, told))}, in batches"


def _label(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Model):
        return value._meta.label
    return ""


def also_known_as(**names: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Let an `__init__` take the names of Djangae's operations too: each name's value is what it is here."""

    def decorate(init: Callable[_P, None]) -> Callable[_P, None]:
        signature = inspect.signature(init)

        @wraps(init)
        def translated(*args: _P.args, **kwargs: _P.kwargs) -> None:
            found = {names.get(name, name): value for name, value in _ours(kwargs).items()}
            given = dict(signature.bind(*args, **found).arguments)
            operation = given.pop("self")
            operation.given = given
            init(operation, **given)

        return translated

    return decorate


def _ours(kwargs: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in kwargs.items() if name not in _IGNORED}
    if "entities_per_task" in found:
        found["batch_size"] = found.pop("entities_per_task")
    if found.pop("skip_errors", False):
        found["on_error"] = "continue"
    return found
