"""Says what goes into each column of the rows that are copied."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db.models import DateField, F, Field, Model, TimeField, Value
from django.db.models.fields import NOT_PROVIDED
from django.utils import timezone

from massmigration.operations.lookup import (
    check_expression,
    check_same_type,
    check_value,
    find_field,
    is_inherited,
)

if TYPE_CHECKING:
    from massmigration.operations.base import DataOperation
    from massmigration.operations.context import Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the target."""

    field: Field[Any, Any]
    source: Any = None
    """An expression over the model that is copied from."""

    call: Callable[[], Any] | None = None
    """Or what is called for each row."""

    @property
    def is_called(self) -> bool:
        return self.call is not None


def columns_of(
    operation: DataOperation,
    context: Context,
    source: type[Model],
    target: type[Model],
    names: Sequence[str] | None,
    mapping: Mapping[str, Any] | None,
) -> list[Column]:
    """Every column of the target's rows that is not left to the database. Raise for what has no value."""
    for model in (source, target):
        if any(is_inherited(model, field) for field in model._meta.concrete_fields):
            raise operation.refusal(
                context,
                f"{model._meta.label} inherits a table; its rows are in more than one. Copy each table by itself: "
                "name models that have all of their columns.",
            )
    if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
        raise operation.refusal(context, f"fields = {names!r} must be a list of names of fields.")
    if mapping is not None and not isinstance(mapping, Mapping):
        raise operation.refusal(context, f"map = {mapping!r} must be a dict, by names of fields of the target.")
    given = {find_field(operation, context, target, name).name: value for name, value in (mapping or {}).items()}
    copied = _copied(operation, context, source, target, names, given)
    columns = []
    for field in target._meta.concrete_fields:
        if getattr(field, "generated", False) or field.column is None:
            continue
        if field.name in given:
            columns.append(_mapped(operation, context, source, field, given[field.name]))
        elif field.name in copied:
            check_same_type(operation, context, copied[field.name], field)
            columns.append(Column(field=field, source=F(copied[field.name].attname)))
        else:
            columns += _filled(operation, context, field)
    return columns


def _copied(
    operation: DataOperation,
    context: Context,
    source: type[Model],
    target: type[Model],
    names: Sequence[str] | None,
    given: Mapping[str, Any],
) -> dict[str, Field[Any, Any]]:
    """The source's fields that are copied as they are, by the names of the target's."""
    key, target_key = source._meta.pk, target._meta.pk
    assert key is not None
    assert target_key is not None
    if names is None:
        if source._meta.many_to_many:
            told = ", ".join(field.name for field in source._meta.many_to_many)
            raise operation.refusal(
                context,
                f"{source._meta.label} has many-to-many relations ({told}), which are in tables of their own. Name "
                "the fields to copy in fields=, and copy the tables, each relation's 'through', by themselves.",
            )
        used = {value for value in given.values() if isinstance(value, str)}
        fields = [each for each in source._meta.concrete_fields if not getattr(each, "generated", False)]
        fields = [each for each in fields if each.name not in used and each.column is not None]
    else:
        fields = [find_field(operation, context, source, name) for name in names]
    parts = getattr(source._meta, "pk_fields", None) or [key]
    found = {field.name: field for field in fields if field is not key}
    if len(parts) == 1 and target_key.column is not None:
        found[target_key.name] = key  # keys are kept, whatever they are called
    else:
        found |= {part.name: part for part in parts}
    known = {field.name for field in target._meta.concrete_fields}
    lacking = [name for name in found if name not in known]
    if lacking:
        raise operation.refusal(
            context,
            f"{target._meta.label} has no {', '.join(map(repr, lacking))}, which {source._meta.label} has. Name the "
            "fields to copy in fields=, or say in map= where they go: map={'to_field': 'from_field'}.",
        )
    return found


def _mapped(
    operation: DataOperation, context: Context, source: type[Model], field: Field[Any, Any], value: Any
) -> Column:
    if field.primary_key:
        raise operation.refusal(context, f"map names {field.name!r}, the primary key, which is kept.")
    if isinstance(value, str):
        found = find_field(operation, context, source, value)
        check_same_type(operation, context, found, field)
        return Column(field=field, source=F(found.attname))
    if hasattr(value, "resolve_expression"):
        check_expression(operation, context, source, value, may_join=True)
        return Column(field=field, source=value)
    check_value(operation, context, field, value)
    return Column(field=field, source=Value(value, output_field=field))


def _filled(operation: DataOperation, context: Context, field: Field[Any, Any]) -> list[Column]:
    """A column that the source has nothing for."""
    if callable(field.default) and field.default is not NOT_PROVIDED:
        return [Column(field=field, call=field.get_default)]
    if field.has_default():
        return [Column(field=field, source=Value(field.get_default(), output_field=field))]
    if isinstance(field, (DateField, TimeField)) and (
        getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    ):
        return [Column(field=field, call=lambda: field.to_python(timezone.now()))]
    if field.null or getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED:
        return []
    raise operation.refusal(
        context,
        f"{field.model._meta.label}.{field.name} is NOT NULL, has no default, and nothing is copied to it. Say what "
        f"in map=: an expression, such as Value(...), or the name of a field.",
    )
