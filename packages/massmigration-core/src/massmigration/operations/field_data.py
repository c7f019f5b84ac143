"""Operations on one field: fill it, copy it, empty it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections
from django.db.models import F, Field, Model, QuerySet
from django.db.models.fields import NOT_PROVIDED

from massmigration import calling
from massmigration.definitions.stages import Stage
from massmigration.operations import ghosts
from massmigration.operations.base import DataOperation, also_known_as
from massmigration.operations.context import Context
from massmigration.operations.lookup import (
    all_rows,
    check_expression,
    check_same_type,
    check_value,
    field_or_none,
    find_field,
    find_writable,
)

_USUAL = (str, int, float, Model, type(None))
"""Kinds of values of which it need not be asked whether they are still to be run."""


class _FieldData(DataOperation):
    """What all have in common."""

    def _set(
        self,
        context: Context,
        get_queryset: Callable[[str], QuerySet[Any]],
        field: Field[Any, Any],
        value: Any,
        *,
        empties: bool = False,
    ) -> Stage:
        """A stage that writes one value, or expression, in every row."""

        def write(queryset: QuerySet[Any], db_alias: str) -> None:
            queryset.update(**{field.name: value})

        return self.mapped(context, get_queryset, operation_batch=write, is_statement=True, empties=empties)


class AddFieldData(_FieldData):
    """Fills a field where it is null; with `overwrite`, always.

    `value`: a constant; an expression; a callable, called with each object; a field, for its default; left out: the
    default of the model's own field. A default that is a callable is called for each object.
    """

    @also_known_as(model_name="model", name="field_name", field="value")
    def __init__(
        self,
        model: str | type[Model],
        field_name: str,
        value: Any = NOT_PROVIDED,
        overwrite: bool = False,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        self.model = model
        self.field_name = field_name
        self.value = value
        self.overwrite = overwrite
        self.batch_size = batch_size
        self.on_error = on_error

    def get_stages(self, context: Context) -> Sequence[Stage]:
        model = self.subject(context)
        field = find_writable(self, context, model, self.field_name)
        value, by_object = self._value(context, model, field)

        def get_queryset(db_alias: str) -> QuerySet[Any]:
            rows = all_rows(model, db_alias)
            return rows if self.overwrite else rows.filter(**{f"{field.name}__isnull": True})

        if by_object is None:
            # Of an expression it is not known whether it is NULL.
            empties = not self.overwrite and value is not None and not hasattr(value, "resolve_expression")
            return [self._set(context, get_queryset, field, value, empties=empties)]

        def assign(obj: Model, db_alias: str) -> None:
            found = by_object(obj)
            if not isinstance(found, _USUAL):
                calling.refuse_unrun(by_object, found)
            setattr(obj, field.name if isinstance(found, Model) else field.attname, found)

        return [self.mapped(context, get_queryset, operation=assign, update_fields=[field.name])]

    def _value(
        self, context: Context, model: type[Model], field: Field[Any, Any]
    ) -> tuple[Any, Callable[[Model], Any] | None]:
        """What to write in every row, or what to call for each object."""
        given = field if self.value is NOT_PROVIDED else self.value
        if isinstance(given, Field):
            return self._default(context, given, field)
        if hasattr(given, "resolve_expression"):
            check_expression(self, context, model, given)
            return given, None
        if callable(given):
            if obstacle := calling.obstacle(given, object()):
                raise self.refusal(
                    context,
                    f"value = {given!r} cannot be called with an object ({obstacle}); write a function of one "
                    "argument, the object, which returns the value.",
                )
            return None, given
        check_value(self, context, field, given)
        return given, None

    def _default(
        self, context: Context, given: Field[Any, Any], field: Field[Any, Any]
    ) -> tuple[Any, Callable[[Model], Any] | None]:
        if given.has_default() and callable(given.default):
            return None, lambda obj: given.get_default()
        value = given.get_default()
        if value is None:
            raise self.refusal(
                context,
                f"{field.model._meta.label}.{field.name} has no default to fill in; say which value: "
                f"{type(self).__name__}(model, field_name, value).",
            )
        check_value(self, context, field, value)
        return value, None


class CopyFieldData(_FieldData):
    """Copies one column to another of the same model, in every row. Names of columns will do, too."""

    @also_known_as(model_name="model", from_column_name="from_field", to_column_name="to_field")
    def __init__(
        self,
        model: str | type[Model],
        from_field: str,
        to_field: str,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        self.model = model
        self.from_field = from_field
        self.to_field = to_field
        self.batch_size = batch_size
        self.on_error = on_error

    def get_stages(self, context: Context) -> Sequence[Stage]:
        model = self.subject(context)
        source = find_field(self, context, model, self.from_field)
        target = find_writable(self, context, model, self.to_field)
        if source is target:
            raise self.refusal(context, f"{self.from_field!r} and {self.to_field!r} are the same field.")
        check_same_type(self, context, source, target)
        return [self._set(context, lambda db_alias: all_rows(model, db_alias), target, F(source.attname))]


class RemoveFieldData(_FieldData):
    """Empties a field, or a column that the table has and the model no longer: writes NULL wherever it is not.

    `field`: as Djangae's operations were given it; only its `db_column` is looked at.
    """

    reversible = False

    @also_known_as(model_name="model", name="field_name")
    def __init__(
        self,
        model: str | type[Model],
        field_name: str,
        field: Field[Any, Any] | None = None,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        self.model = model
        self.field_name = field_name
        self.field = field
        self.batch_size = batch_size
        self.on_error = on_error

    def get_stages(self, context: Context) -> Sequence[Stage]:
        rows_of, field = self._target(context)

        def get_queryset(db_alias: str) -> QuerySet[Any]:
            return all_rows(rows_of, db_alias).filter(**{f"{field.name}__isnull": False})

        return [self._set(context, get_queryset, field, None, empties=True)]

    def check_database(self, context: Context, db_alias: str) -> None:
        super().check_database(context, db_alias)
        model = self.subject(context)
        _, field = self._target(context)
        connection, table = connections[db_alias], model._meta.db_table
        try:
            with connection.cursor() as cursor:
                found = {each.name: each for each in connection.introspection.get_table_description(cursor, table)}
        except NotImplementedError:  # as gcloudc says of the Datastore
            raise self.refusal(
                context,
                f"database {db_alias!r} does not say which columns it has. Remove {field.column!r} by a migration of "
                "your own.",
            ) from None
        if field.column not in found:
            raise self.refusal(
                context,
                f"table {table!r} on database {db_alias!r} has no column {field.column!r}; it has: "
                f"{', '.join(sorted(found))}.",
            )
        if not found[field.column].null_ok:
            raise self.refusal(context, _not_null(f"column {field.column!r} of table {table!r}"))

    def confirmation(self, context: Context) -> str:
        model = self.subject(context)
        return f"It empties {self.field_name!r} in every row of {model._meta.label}."

    def _target(self, context: Context) -> tuple[type[Model], Field[Any, Any]]:
        model = self.subject(context)
        name: Any = self.field_name
        if not isinstance(name, str) or not name:
            raise self.refusal(context, f"{self.field_name!r} is no name of a field or a column.")
        if field_or_none(model, self.field_name) is None:
            column = (self.field.db_column if self.field else None) or self.field_name
            return ghosts.with_column(model, column)
        field = find_writable(self, context, model, self.field_name)
        if not field.null:
            raise self.refusal(context, _not_null(f"{model._meta.label}.{field.name}"))
        return model, field


def _not_null(what: str) -> str:
    return f"{what} is NOT NULL and cannot be emptied. Let it be null first, or drop the column, which is faster."
