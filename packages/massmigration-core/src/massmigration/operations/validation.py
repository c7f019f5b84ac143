"""Lookup of the models and fields that operations name, and checks of values, expressions and types."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import FieldError, ValidationError
from django.db.models import Field, ForeignKey, Model, QuerySet

from massmigration.operations.context import OperationContext

_TEXTS = frozenset(
    {"CharField", "TextField", "SlugField", "EmailField", "URLField", "FilePathField", "FileField", "ImageField"}
)
_INTEGERS = frozenset(
    {"AutoField", "BigAutoField", "SmallAutoField", "IntegerField", "BigIntegerField", "SmallIntegerField"}
    | {"PositiveIntegerField", "PositiveBigIntegerField", "PositiveSmallIntegerField"}
)
_NUMBERS = frozenset({"DecimalField", "FloatField"})


def find_model(context: OperationContext, given: Any) -> type[Model]:
    """Return the model with a label, `"app.Model"` or `"Model"`, or the model of a class."""
    label = given._meta.label if isinstance(given, type) and issubclass(given, Model) else given
    if not isinstance(label, str):
        raise context.error(f"{given!r} is not a model; it must be a string such as 'app_label.Model', or a class.")
    app_label, dot, name = label.rpartition(".")
    try:
        model: type[Model] = context.apps.get_model(app_label if dot else context.app_label, name)
    except (LookupError, ValueError) as error:
        raise context.error(f"there is no model {label!r} ({error}).") from None
    return model


def find_field(context: OperationContext, model: type[Model], name: Any) -> Field[Any, Any]:
    """Return the field of the model's own table that has this name, or whose column has it."""
    field: Any = field_or_none(model, name)
    label = model._meta.label
    if field is None:
        known = ", ".join(sorted(each.name for each in model._meta.concrete_fields))
        raise context.error(f"{label} has no field {name!r}; it has: {known}.")
    problem = ""
    if field.many_to_many:
        problem = "is a many-to-many relation; name the model of its table instead, which is its attribute 'through'"
    elif not isinstance(field, Field) or not field.concrete:
        problem = "is not a column"
    elif getattr(field, "generated", False):
        problem = "is a generated column, which only the database can write"
    elif is_inherited(model, field):
        problem = f"is in the table of the parent {field.model._meta.label}; name that model instead"
    if problem:
        raise context.error(f"{label}.{name} {problem}.")
    found: Field[Any, Any] = field
    return found


def find_writable(context: OperationContext, model: type[Model], name: Any) -> Field[Any, Any]:
    """Return the field as `find_field` does. Raise `BadMigrationFile` if it is a primary key."""
    field = find_field(context, model, name)
    if field.primary_key or field in getattr(model._meta, "pk_fields", ()):
        raise context.error(f"{model._meta.label}.{name} is a primary key, which operations do not change.")
    return field


def field_or_none(model: type[Model], name: Any) -> Any:
    """Return the field that has this name, or whose column has it, or None."""
    for field in model._meta.get_fields(include_hidden=True):
        if name in (field.name, getattr(field, "attname", None), getattr(field, "column", None)):
            return field
    return None


def is_inherited(model: type[Model], field: Field[Any, Any]) -> bool:
    """Return whether the field's column is in the table of a parent."""
    return field.model._meta.concrete_model is not model._meta.concrete_model


def check_value(context: OperationContext, field: Field[Any, Any], value: Any) -> None:
    """Raise `BadMigrationFile` unless the value is valid for the field."""
    where = f"{field.model._meta.label}.{field.name}"
    if value is None:
        if not field.null:
            raise context.error(f"{where} is NOT NULL, so its value cannot be None. Set another value.")
        return
    try:
        plain = value.pk if isinstance(value, Model) else value
        field.to_python(plain)
        if plain not in field.empty_values:
            (field.target_field if isinstance(field, ForeignKey) else field).run_validators(plain)
    except (ValidationError, TypeError, ValueError) as error:
        reason = "; ".join(error.messages) if isinstance(error, ValidationError) else str(error)
        kind = type(field).__name__
        raise context.error(f"{value!r} is not a valid value for {where}, a {kind}: {reason}") from None


def check_expression(context: OperationContext, model: type[Model], expression: Any, *, may_join: bool = False) -> None:
    """Raise `BadMigrationFile` unless the model has the expression's fields and its value does not depend on the batch.

    `may_join`: allow fields of related models.
    """
    query: Any = QuerySet(model=model).query
    try:
        resolved = expression.resolve_expression(query, allow_joins=may_join)
    except FieldError as error:
        raise context.error(f"{expression!r} cannot be computed for {model._meta.label}: {error}") from None
    if not may_join and getattr(resolved, "contains_aggregate", False):
        raise context.error(
            f"{expression!r} contains an aggregate, which an UPDATE cannot compute. Put it into a Subquery."
        )
    if _reaches_many(query) and not getattr(resolved, "contains_aggregate", False):
        raise context.error(
            f"{expression!r} may have several values for a row of {model._meta.label}. Use an aggregate, such as Max, "
            "or a Subquery to get one."
        )
    if getattr(resolved, "contains_over_clause", False):
        raise context.error(
            f"{expression!r} contains a window function, which would be computed separately for each batch. Put it "
            "into a Subquery."
        )


def _reaches_many(query: Any) -> bool:
    joins = (table.join_field for table in query.alias_map.values() if getattr(table, "join_type", None))
    return any(field.one_to_many for field in joins)


def check_same_type(context: OperationContext, source: Field[Any, Any], target: Field[Any, Any]) -> None:
    """Raise `BadMigrationFile` unless every value of one column can be copied to the other without conversion."""
    if not can_assign(source, target):
        raise context.error(
            f"{_describe(source)} cannot be copied to {_describe(target)} without conversion. Within a model, use "
            "AddFieldData with overwrite=True and a function or an expression. Between models, use map=."
        )


def can_assign(source: Field[Any, Any], target: Field[Any, Any]) -> bool:
    """Return whether every database accepts the values of one field in the other, or raises for those it does not."""
    source, target = _target(source), _target(target)
    kinds = source.get_internal_type(), target.get_internal_type()
    if kinds[0] == kinds[1] or (_TEXTS.issuperset(kinds)) or _INTEGERS.issuperset(kinds):
        return True
    return kinds[0] in _INTEGERS and kinds[1] in _NUMBERS


def _target(field: Field[Any, Any]) -> Field[Any, Any]:
    while isinstance(field, ForeignKey):
        field = field.target_field
    return field


def _describe(field: Field[Any, Any]) -> str:
    return f"{field.model._meta.label}.{field.name} ({type(field).__name__})"
