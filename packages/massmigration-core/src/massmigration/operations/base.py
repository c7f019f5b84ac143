"""The base class of data operations, which work in an `OperationsMigration` and in Django's own migrations."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

from django.db import router
from django.db.migrations.operations.base import Operation
from django.db.models import Model, QuerySet

from massmigration.definitions.stages import MappedStage, Stage
from massmigration.exceptions import BadMigrationFile
from massmigration.operations import schema_migrations
from massmigration.operations.context import OperationContext
from massmigration.operations.validation import find_model

try:
    from django.db.migrations.operations.base import OperationCategory
except ImportError:  # before Django 5.1
    OperationCategory = None  # type: ignore[assignment, misc]

_P = ParamSpec("_P")

_IGNORED = frozenset({"uid", "shard_count", "queue"})
"""Arguments of Djangae's operations that have no meaning here."""


class DataOperation(Operation):
    """An operation on the rows of one model.

    In an `OperationsMigration`, it is a stage. In one of Django's migrations, it runs in the foreground, in batches and
    outside a transaction. If it is interrupted, the next `migrate` resumes it.
    """

    reduces_to_sql = False
    reversible = True
    """Whether Django's migration can be unapplied. The data stays as it is."""

    if OperationCategory is not None:
        category = OperationCategory.PYTHON

    model: str | type[Model]
    batch_size: int | None = None
    on_error: str | None = None

    def __init__(self, model: str | type[Model], *, batch_size: int | None = None, on_error: str | None = None) -> None:
        self.model = model
        self.batch_size = batch_size
        self.on_error = on_error

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        """Return the operation's stages. Raise `BadMigrationFile` for what is wrong on every database.

        This must not make queries.
        """
        raise NotImplementedError

    def subject(self, context: OperationContext) -> type[Model]:
        """Return the model whose rows the operation processes."""
        return find_model(context, self.model)

    def check_database(self, context: OperationContext, db_alias: str) -> None:
        """Raise `BadMigrationFile` for what is wrong on one database. Called before a launch there."""
        model = self.subject(context)
        if not router.allow_migrate_model(db_alias, model):
            raise context.error(
                f"the database routers do not allow {model._meta.label} on database {db_alias!r}. Set "
                "allowed_db_aliases of the migration to the databases of this model."
            )

    def confirmation(self, context: OperationContext) -> str:
        """Return a sentence that an operator must confirm before a launch, or an empty string."""
        return ""

    def mapped(
        self,
        context: OperationContext,
        get_queryset: Callable[[str], QuerySet[Any]],
        *,
        operation: Callable[[Model, str], None] | None = None,
        operation_batch: Callable[[QuerySet[Any], str], None] | None = None,
        update_fields: Sequence[str] | None = None,
        atomic: bool | None = None,
        is_statement: bool = False,
        empties: bool = False,
    ) -> MappedStage:
        """Return a mapped stage with the options of the migration, some of which the operation overrides."""
        given = context.options
        try:
            options = dataclasses.replace(
                given,
                atomic=given.atomic if atomic is None else atomic,
                batch_size=given.batch_size if self.batch_size is None else self.batch_size,
                first_batch_size=given.first_batch_size if self.batch_size is None else None,
                on_error=self.on_error or given.on_error,
            )
        except BadMigrationFile as error:
            raise context.error(str(error)) from None
        return MappedStage(
            name=context.name,
            get_queryset=get_queryset,
            operation=operation,
            operation_batch=operation_batch,
            is_statement=is_statement,
            empties=empties,
            update_fields=update_fields,
            **vars(options),
        )

    # As an operation of Django's migrations.

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Leave the state alone: data is not part of it."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        schema_migrations.forwards(self, app_label, schema_editor, from_state)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Leave the data as it is, but have the operation run again when the migration is applied again."""
        schema_migrations.backwards(self, app_label, schema_editor, from_state)

    def describe(self) -> str:
        _, positional, named = self.deconstruct()
        first = [*positional, *named.values()][:3]
        names = [str(value) if isinstance(value, str) else _label(value) for value in first]
        return f"Data: {type(self).__name__} {', '.join(filter(None, names))}, in batches"


def _label(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, Model):
        return value._meta.label
    return ""


def accepts_djangae_names(**names: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Decorate an `__init__` to accept the argument names of Djangae's operations, too.

    `names`: the name here for each of Djangae's names.
    """

    def decorate(init: Callable[_P, None]) -> Callable[_P, None]:
        signature = inspect.signature(init)

        @wraps(init)
        def translated(*args: _P.args, **kwargs: _P.kwargs) -> None:
            found = {names.get(name, name): value for name, value in _without_djangae_options(kwargs).items()}
            given = dict(signature.bind(*args, **found).arguments)
            operation = given.pop("self")
            if getattr(type(operation).__init__, "_is_translated", False):  # no subclass has an __init__ of its own
                operation._constructor_args = ((), given)  # which Django's deconstruct() returns
            init(operation, **given)

        translated._is_translated = True  # type: ignore[attr-defined]
        return translated

    return decorate


def _without_djangae_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in kwargs.items() if name not in _IGNORED}
    if "entities_per_task" in found:
        found["batch_size"] = found.pop("entities_per_task")
    if found.pop("skip_errors", False):
        found["on_error"] = "continue"
    return found
