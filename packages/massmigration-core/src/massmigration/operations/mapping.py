"""Calls a function for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import Field, Model, QuerySet

from massmigration import calling
from massmigration.definitions.stages import Stage
from massmigration.exceptions import BadMigrationFile
from massmigration.operations.base import DataOperation, also_known_as
from massmigration.operations.context import Context
from massmigration.operations.lookup import all_rows, find_writable, is_inherited


class _MapFunction(DataOperation):
    """What both have in common."""

    reversible = False
    function: Callable[..., Any]

    def check_function(self, context: Context, what: str) -> None:
        """Raise unless the function takes one argument."""
        if obstacle := calling.obstacle(self.function, object()):
            raise self.refusal(
                context,
                f"function = {self.function!r} cannot be called with {what} ({obstacle}); it must take one argument.",
            )


class MapFunctionOnObjects(_MapFunction):
    """Calls `function(obj)` for each object of a model.

    With `update_fields` it only assigns, and the engine writes what has changed. Without, it saves by itself.
    """

    @also_known_as(model_name="model")
    def __init__(
        self,
        model: str | type[Model],
        function: Callable[[Any], Any],
        update_fields: Sequence[str] | None = None,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        self.model = model
        self.function = function
        self.update_fields = update_fields
        self.batch_size = batch_size
        self.on_error = on_error

    def get_stages(self, context: Context) -> Sequence[Stage]:
        model = self.subject(context)
        self.check_function(context, "an object")
        names = self.update_fields
        if names is not None and (isinstance(names, str) or not names):
            raise self.refusal(context, f"update_fields = {names!r} must be a list of names of fields.")
        for name in names or ():
            find_writable(self, context, model, name)

        def operation(obj: Model, db_alias: str) -> None:
            answer = self.function(obj)
            if answer is not None:
                calling.refuse_unrun(self.function, answer)

        return [
            self.mapped(context, lambda db_alias: all_rows(model, db_alias), operation=operation, update_fields=names)
        ]


class Entity(dict[str, Any]):
    """A row as `MapFunctionOnEntities` gives it: its values by the names of their columns."""

    def __init__(self, values: dict[str, Any], *, kind: str, key: Any, db_alias: str) -> None:
        super().__init__(values)
        self.kind = kind
        """The name of the table."""
        self.key = key
        """The value of the primary key."""
        self.db_alias = db_alias
        """The database that it is in."""


class MapFunctionOnEntities(_MapFunction):
    """Calls `function(entity)` for each row of a model's table; what it changes in the `Entity` is written back.

    A value that it deletes becomes NULL.
    """

    @also_known_as(model_name="model")
    def __init__(
        self,
        model: str | type[Model],
        function: Callable[[Entity], Any],
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        self.model = model
        self.function = function
        self.batch_size = batch_size
        self.on_error = on_error

    def get_stages(self, context: Context) -> Sequence[Stage]:
        model = self.subject(context)
        self.check_function(context, "an entity")
        keys = [model._meta.pk, *(getattr(model._meta, "pk_fields", None) or ())]
        own: list[Field[Any, Any]] = [
            field
            for field in model._meta.concrete_fields
            if field not in keys and not getattr(field, "generated", False) and not is_inherited(model, field)
        ]
        if not own:
            raise self.refusal(context, f"{model._meta.label} has no columns of its own but its primary key.")

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
                calling.refuse_unrun(self.function, answer)
            if unknown := entity.keys() - attributes.keys():
                raise BadMigrationFile(
                    f"The function set {', '.join(map(repr, sorted(unknown)))}, for which table {table!r} has no "
                    "column that can be written."
                )
            for column, name in attributes.items():
                value = entity.get(column)
                if value is not values[name]:
                    setattr(obj, name, value)

        names = [field.name for field in own]
        return [self.mapped(context, get_queryset, operation=operation, update_fields=names)]
