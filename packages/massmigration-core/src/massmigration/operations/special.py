"""Operations that call a function for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import Field, Model, QuerySet

from massmigration.definitions import callables
from massmigration.definitions.stages import Stage
from massmigration.exceptions import BadMigrationFile
from massmigration.operations.base import DataOperation, accepts_djangae_names
from massmigration.operations.context import OperationContext
from massmigration.operations.validation import find_writable, is_inherited
from massmigration.paging.querysets import all_rows


class _MapFunction(DataOperation):
    """The common part of the operations that call a function."""

    reversible = False
    function: Callable[..., Any]

    def check_function(self, context: OperationContext, what: str) -> None:
        """Raise `BadMigrationFile` unless the function takes one argument."""
        if problem := callables.call_problem(self.function, object()):
            raise context.error(
                f"function = {self.function!r} cannot be called with {what} ({problem}); it must take one argument."
            )


class MapFunctionOnObjects(_MapFunction):
    """An operation that calls `function(obj)` for each object of a model.

    `update_fields`: names of the fields that the function assigns and the engine writes. Without them, the function
    must save the object itself.
    """

    @accepts_djangae_names(model_name="model")
    def __init__(
        self,
        model: str | type[Model],
        function: Callable[[Any], Any],
        update_fields: Sequence[str] | None = None,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, on_error=on_error)
        self.function = function
        self.update_fields = update_fields

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        model = self.subject(context)
        self.check_function(context, "an object")
        names = self.update_fields
        if names is not None and (isinstance(names, str) or not names):
            raise context.error(f"update_fields = {names!r} must be a list of field names.")
        for name in names or ():
            find_writable(context, model, name)

        def operation(obj: Model, db_alias: str) -> None:
            answer = self.function(obj)
            if answer is not None:
                callables.check_executed(self.function, answer)

        return [
            self.mapped(context, lambda db_alias: all_rows(model, db_alias), operation=operation, update_fields=names)
        ]


class Entity(dict[str, Any]):
    """A row as `MapFunctionOnEntities` passes it: a dict of its values by column name."""

    def __init__(self, values: dict[str, Any], *, kind: str, key: Any, db_alias: str) -> None:
        super().__init__(values)
        self.kind = kind
        """The name of the table."""
        self.key = key
        """The value of the primary key."""
        self.db_alias = db_alias
        """The alias of the row's database."""


class MapFunctionOnEntities(_MapFunction):
    """An operation that calls `function(entity)` for each row of a table, and writes the changes of the `Entity`.

    A value that the function deletes from the entity becomes NULL.
    """

    @accepts_djangae_names(model_name="model")
    def __init__(
        self,
        model: str | type[Model],
        function: Callable[[Entity], Any],
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, on_error=on_error)
        self.function = function

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        model = self.subject(context)
        self.check_function(context, "an entity")
        keys = [model._meta.pk, *(getattr(model._meta, "pk_fields", None) or ())]
        own: list[Field[Any, Any]] = [
            field
            for field in model._meta.concrete_fields
            if field not in keys and not getattr(field, "generated", False) and not is_inherited(model, field)
        ]
        if not own:
            raise context.error(f"the table of {model._meta.label} has no columns except its primary key.")

        def get_queryset(db_alias: str) -> QuerySet[Any]:
            return all_rows(model, db_alias)

        attributes = {str(field.column): field.attname for field in own}
        table = model._meta.db_table

        def operation(obj: Model, db_alias: str) -> None:
            values = obj.__dict__
            entity = Entity(
                {column: values[name] for column, name in attributes.items()},
                kind=table,
                key=obj.pk,
                db_alias=db_alias,
            )
            answer = self.function(entity)
            if answer is not None:
                callables.check_executed(self.function, answer)
            if unknown := entity.keys() - attributes.keys():
                raise BadMigrationFile(
                    f"The function set {', '.join(map(repr, sorted(unknown)))}, but table {table!r} has no such "
                    "writable column."
                )
            for column, name in attributes.items():
                value = entity.get(column)
                if value is not values[name]:
                    setattr(obj, name, value)

        names = [field.name for field in own]
        return [self.mapped(context, get_queryset, operation=operation, update_fields=names)]
