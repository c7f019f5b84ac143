"""Finds the fields that a migration names, or says why they will not do."""

from __future__ import annotations

import difflib
from typing import Any, TypeAlias

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Deferrable, Field, JSONField, Model

from massmigration.exceptions import BadMigrationFile

AnyField: TypeAlias = "Field[Any, Any]"


def writable(model: type[Model], field_name: str, *, name: str) -> AnyField:
    """The field of `model` that `update_fields` of migration `name` means. Raise `BadMigrationFile`."""
    field = _find(model, field_name, f"update_fields of migration {name!r}")
    if field is None or field.primary_key or getattr(field, "generated", False):
        raise BadMigrationFile(
            f"update_fields of migration {name!r} names {field_name!r}, which is not a column of {model._meta.label} "
            "that can be written: primary keys, generated columns, reverse and many-to-many relations cannot."
        )
    return field


def cursor(model: type[Model], field_name: Any, *, name: str) -> AnyField:
    """The field of `model` that `cursor_field` of migration `name` means: unique, never null, ordered.

    Raise `BadMigrationFile` with the reason if it is not.
    """
    whose = f"cursor_field of migration {name!r}"
    label = model._meta.label
    if not isinstance(field_name, str):
        raise BadMigrationFile(f"{whose} is {field_name!r}; it must be the name of one field of {label}.")
    if "__" in field_name:
        raise BadMigrationFile(f"{whose} is {field_name!r}, which is in another table; it must be a field of {label}.")
    field = _find(model, field_name, whose)
    refusal = "is no column" if field is None else _refusal(model, field)
    if refusal:
        raise BadMigrationFile(
            f"{whose} names {field_name!r}, which {refusal} in {label}: batches would leave objects out, or do them "
            "twice. Name a field that is unique and never null, or leave cursor_field out: the primary key is taken."
        )
    assert field is not None
    return field


def _refusal(model: type[Model], field: AnyField) -> str:
    if field.model._meta.concrete_model is not model._meta.concrete_model:
        return f"is a column of its parent {field.model._meta.label}, not of its own table,"
    if field.null:
        return "may be null"
    if isinstance(field, JSONField):
        return "is JSON, which has no order,"
    if not field.unique and not _is_constrained(model, field):
        return "is not unique"
    return ""


def _is_constrained(model: type[Model], field: AnyField) -> bool:
    """Whether a constraint on this field alone, of every row and at any moment, makes it unique."""
    together: Any = model._meta.unique_together
    return (field.name,) in {tuple(names) for names in together} or any(
        tuple(constraint.fields) == (field.name,) and constraint.deferrable in (None, Deferrable.IMMEDIATE)
        for constraint in model._meta.total_unique_constraints
    )


def _find(model: type[Model], field_name: str, whose: str) -> AnyField | None:
    """None: there is something of that name which is no column of one."""
    try:
        field = model._meta.get_field(field_name)
    except FieldDoesNotExist:
        known = sorted(field.name for field in model._meta.concrete_fields)
        near = difflib.get_close_matches(str(field_name), known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise BadMigrationFile(
            f"{whose} names {field_name!r}, which {model._meta.label} does not have; it has: {', '.join(known)}.{guess}"
        ) from None
    if not isinstance(field, Field) or not field.concrete or field.many_to_many:  # concrete, says Django
        return None
    return None if getattr(field, "column", None) is None else field
