"""Operations on one field: fill it, copy it, empty it. The model need not have the field any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from django.apps.registry import Apps
from django.db.models import F, Field, ForeignKey, Model, QuerySet, TextField, Value
from django.db.models.fields import NOT_PROVIDED

from massmigration.definitions import callables
from massmigration.definitions.stages import Stage
from massmigration.dialects import dialect_of, is_document_database
from massmigration.documents import session
from massmigration.operations.base import DataOperation, accepts_djangae_names
from massmigration.operations.context import OperationContext
from massmigration.operations.validation import (
    check_expression,
    check_same_type,
    check_value,
    field_or_none,
    find_field,
    find_writable,
)
from massmigration.paging.querysets import all_rows


@cache
def model_with_column(model: type[Model], column: str) -> tuple[type[Model], Field[Any, Any]]:
    """Return a model that has only the primary key of `model` and this column, and the column's field.

    The model has its own app registry, so that neither migrations nor relations see it.
    """
    meta = {"app_label": model._meta.app_label, "db_table": model._meta.db_table, "apps": Apps(), "managed": False}
    body: dict[str, Any] = {"__module__": __name__, "Meta": type("Meta", (), meta)}
    parts = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    for index, part in enumerate(parts):
        body[f"key_{index}"] = _key(part, is_whole=len(parts) == 1)
    if len(parts) > 1:
        from django.db.models import CompositePrimaryKey  # exists since Django 5.2

        body["pk"] = CompositePrimaryKey(*(f"key_{index}" for index in range(len(parts))))
    body["vanished"] = TextField(null=True, db_column=column)
    found: Any = type(model.__name__, (Model,), body)
    return found, found._meta.get_field("vanished")


def _key(part: Any, *, is_whole: bool) -> Field[Any, Any]:
    """Return a field for the same column as a part of the key, without its relation."""
    end = part
    while isinstance(end, ForeignKey):
        end = end.target_field
    key: Field[Any, Any] = end.clone()
    key.db_column = part.column
    key.primary_key = is_whole
    key._unique = False  # type: ignore[attr-defined]
    return key


_PLAIN = (str, int, float, Model, type(None))
"""Types of values that are certainly not coroutines or generators."""


class _FieldData(DataOperation):
    """The common part of the operations on fields."""

    def _set(
        self,
        context: OperationContext,
        get_queryset: Callable[[str], QuerySet[Any]],
        field: Field[Any, Any],
        value: Any,
        *,
        empties: bool = False,
    ) -> Stage:
        """Return a stage that writes one value or expression to every row."""

        def write(queryset: QuerySet[Any], db_alias: str) -> None:
            queryset.update(**{field.name: value})

        return self.mapped(context, get_queryset, operation_batch=write, is_statement=True, empties=empties)

    def _check_no_expression(self, context: OperationContext, db_alias: str, value: Any, *, advice: str) -> None:
        if not dialect_of(db_alias).has_sql and hasattr(value, "resolve_expression"):
            raise context.error(f"database {db_alias!r} cannot compute expressions such as {value!r}. {advice}")


class AddFieldData(_FieldData):
    """An operation that fills a field in the rows where it is NULL.

    `value`: a constant, an expression, a function that is called with each object, or a field, whose default is used
    (default: the default of the model's field, or else of the database). A callable default is called for each object.
    `overwrite`: fill the field in every row.
    """

    @accepts_djangae_names(model_name="model", name="field_name", field="value")
    def __init__(
        self,
        model: str | type[Model],
        field_name: str,
        value: Any = NOT_PROVIDED,
        overwrite: bool = False,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, on_error=on_error)
        self.field_name = field_name
        self.value = value
        self.overwrite = overwrite

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        model = self.subject(context)
        field = find_writable(context, model, self.field_name)
        value, by_object = self._value(context, model, field)

        def get_queryset(db_alias: str) -> QuerySet[Any]:
            rows = all_rows(model, db_alias)
            return rows if self.overwrite else rows.filter(**{f"{field.name}__isnull": True})

        if by_object is None:
            # The value of an expression may be NULL.
            empties = not self.overwrite and value is not None and not hasattr(value, "resolve_expression")
            return [self._set(context, get_queryset, field, value, empties=empties)]

        def assign(obj: Model, db_alias: str) -> None:
            found = by_object(obj)
            if not isinstance(found, _PLAIN):
                callables.check_executed(by_object, found)
            setattr(obj, field.name if isinstance(found, Model) else field.attname, found)

        return [self.mapped(context, get_queryset, operation=assign, update_fields=[field.name])]

    def check_database(self, context: OperationContext, db_alias: str) -> None:
        super().check_database(context, db_alias)
        advice = "Pass a function that takes the object and returns the value."
        self._check_no_expression(context, db_alias, self.value, advice=advice)

    def _value(
        self, context: OperationContext, model: type[Model], field: Field[Any, Any]
    ) -> tuple[Any, Callable[[Model], Any] | None]:
        """Return the value for every row, or None and the function to call for each object."""
        given = field if self.value is NOT_PROVIDED else self.value
        if isinstance(given, Field):
            return self._default(context, given, field)
        if hasattr(given, "resolve_expression"):
            check_expression(context, model, given)
            return given, None
        if callable(given):
            if problem := callables.call_problem(given, object()):
                raise context.error(
                    f"value = {given!r} cannot be called with an object ({problem}). Pass a function that takes the "
                    "object and returns the value."
                )
            return None, given
        check_value(context, field, given)
        return given, None

    def _default(
        self, context: OperationContext, given: Field[Any, Any], field: Field[Any, Any]
    ) -> tuple[Any, Callable[[Model], Any] | None]:
        if given.has_default() and callable(given.default):
            return None, lambda obj: given.get_default()
        if not given.has_default() and (expression := _database_default(given)) is not None:
            return expression, None
        value = given.get_default()
        if value is None:
            raise context.error(
                f"{field.model._meta.label}.{field.name} has no default. Pass the value: "
                f"{type(self).__name__}(model, field_name, value)."
            )
        check_value(context, field, value)
        return value, None


class CopyFieldData(_FieldData):
    """An operation that copies a field or a column to another of the same model, in every row."""

    @accepts_djangae_names(model_name="model", from_column_name="from_field", to_column_name="to_field")
    def __init__(
        self,
        model: str | type[Model],
        from_field: str,
        to_field: str,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, on_error=on_error)
        self.from_field = from_field
        self.to_field = to_field

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        model = self.subject(context)
        source = find_field(context, model, self.from_field)
        target = find_writable(context, model, self.to_field)
        if source is target:
            raise context.error(f"{self.from_field!r} and {self.to_field!r} are the same field.")
        check_same_type(context, source, target)
        return [self._set(context, lambda db_alias: all_rows(model, db_alias), target, F(source.attname))]

    def check_database(self, context: OperationContext, db_alias: str) -> None:
        super().check_database(context, db_alias)
        advice = (
            f"Use AddFieldData({self.model!r}, {self.to_field!r}, function, overwrite=True), with a function that "
            "takes the object and returns the value."
        )
        self._check_no_expression(context, db_alias, F(self.from_field), advice=advice)


class RemoveFieldData(_FieldData):
    """An operation that writes NULL to a field, or to a column that the table still has but the model does not.

    On Datastore and Firestore, the property of such a column is removed from the entities.

    `field`: accepted because Djangae's operation has it; only its `db_column` is used.
    """

    reversible = False

    @accepts_djangae_names(model_name="model", name="field_name")
    def __init__(
        self,
        model: str | type[Model],
        field_name: str,
        field: Field[Any, Any] | None = None,
        batch_size: int | None = None,
        on_error: str | None = None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, on_error=on_error)
        self.field_name = field_name
        self.field = field

    def get_stages(self, context: OperationContext) -> Sequence[Stage]:
        model = self.subject(context)
        rows_of, field = self._target(context)
        is_gone = rows_of is not model

        def get_queryset(db_alias: str) -> QuerySet[Any]:
            if is_gone and is_document_database(db_alias):
                return all_rows(model, db_alias)  # a queryset cannot filter by a property that no field maps to
            return all_rows(rows_of, db_alias).filter(**{f"{field.name}__isnull": False})

        def write(queryset: QuerySet[Any], db_alias: str) -> None:
            if is_gone and is_document_database(db_alias):
                session.remove_property(queryset, str(field.column), db_alias)
            else:
                queryset.update(**{field.name: None})

        # Entities stay in the queryset when their property is removed.
        empties = not (is_gone and any(is_document_database(each) for each in context.db_aliases))
        return [self.mapped(context, get_queryset, operation_batch=write, is_statement=True, empties=empties)]

    def check_database(self, context: OperationContext, db_alias: str) -> None:
        super().check_database(context, db_alias)
        model = self.subject(context)
        _, field = self._target(context)
        if not dialect_of(db_alias).has_sql:
            return  # each entity has its own set of properties, so there are no columns to check
        table = model._meta.db_table
        try:
            found = dialect_of(db_alias).nullable_columns(table)
        except NotImplementedError:  # a database backend without introspection
            raise context.error(
                f"the columns of database {db_alias!r} cannot be read. Remove {field.column!r} with your own migration "
                "instead."
            ) from None
        if field.column not in found:
            raise context.error(
                f"table {table!r} on database {db_alias!r} has no column {field.column!r}; it has: "
                f"{', '.join(sorted(found))}."
            )
        if not found[field.column]:
            raise context.error(_not_null(f"column {field.column!r} of table {table!r}"))

    def confirmation(self, context: OperationContext) -> str:
        model = self.subject(context)
        return f"It empties {self.field_name!r} in every row of {model._meta.label}."

    def _target(self, context: OperationContext) -> tuple[type[Model], Field[Any, Any]]:
        model = self.subject(context)
        name: Any = self.field_name
        if not isinstance(name, str) or not name:
            raise context.error(f"field_name = {self.field_name!r} must be the name of a field or a column.")
        if field_or_none(model, self.field_name) is None:
            column = (self.field.db_column if self.field else None) or self.field_name
            return model_with_column(model, column)
        field = find_writable(context, model, self.field_name)
        if not field.null:
            raise context.error(_not_null(f"{model._meta.label}.{field.name}"))
        return model, field


def _database_default(field: Field[Any, Any]) -> Any:
    """Return the field's `db_default` as an expression, or None."""
    default = getattr(field, "db_default", NOT_PROVIDED)  # since Django 5.0
    if default is NOT_PROVIDED:
        return None
    return default if hasattr(default, "resolve_expression") else Value(default, output_field=field)


def _not_null(what: str) -> str:
    return f"{what} is NOT NULL and cannot be emptied. Make it nullable first, or drop the column, which is faster."
