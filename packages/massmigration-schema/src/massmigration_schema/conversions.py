"""The conversion of a column's values when its field is altered."""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import CharField, DecimalField, Field, Index, Model, TextField

AnyField: TypeAlias = "Field[Any, Any]"

INTEGERS = {
    **dict.fromkeys(("SmallAutoField", "SmallIntegerField"), 2),
    **dict.fromkeys(("AutoField", "IntegerField"), 4),
    **dict.fromkeys(("BigAutoField", "BigIntegerField"), 8),
}
"""The bytes of the signed integers."""

SMALL_TEXT = 600
"""A text of at most so many characters fits into every index."""


def target_of(field: AnyField) -> AnyField:
    """Return the field at the end of the foreign keys that begin with this field."""
    found: Any = field
    while found.remote_field is not None and not found.many_to_many:
        found = found.target_field
    return found  # type: ignore[no-any-return]


def is_integer(field: AnyField) -> bool:
    """Return whether the column is an integer."""
    kind = target_of(field).get_internal_type()
    return kind in INTEGERS or (kind.startswith("Positive") and kind.endswith("IntegerField"))


def key_fields(model: type[Model]) -> list[AnyField]:
    """Return the fields of a model's primary key, which may be composite since Django 5.2."""
    meta: Any = model._meta
    return list(getattr(meta, "pk_fields", None) or [meta.pk])


def key_refusal(old: AnyField, new: AnyField, connection: BaseDatabaseWrapper) -> str:
    """Return why a field of the key cannot become another one, or nothing.

    Both tables must order keys in the same way and hold the same ones equal: the ranges of batches are the same.
    """
    name = target_of(old).get_internal_type()
    if name in ("FloatField", "JSONField"):
        return f"is {name}; a row must be found by its key. Use another type."
    if (is_integer(old) and is_integer(new)) or keeps_type(old, new, connection) or widens(old, new):
        return ""
    return (
        f"becomes {type_of(new, connection) or 'nothing'}, and is {type_of(old, connection)}; allowed: another type of "
        "integer, a longer text, and more digits. Other types may order keys in another way. Add a column, fill it, "
        "and make it the key in a migration of its own."
    )


def type_of(field: AnyField, connection: BaseDatabaseWrapper) -> str:
    """Return the type of the field's column, with length and precision."""
    return str(field.db_type(connection) or "")


def base_type(field: AnyField, connection: BaseDatabaseWrapper) -> str:
    """Return the type of the field's column without length and precision."""
    return re.sub(r"\s*\([^)]*\)", "", type_of(field, connection))


def keeps_type(old: AnyField, new: AnyField, connection: BaseDatabaseWrapper) -> bool:
    """Return whether the column keeps its type and collation."""
    collations = getattr(old, "db_collation", None), getattr(new, "db_collation", None)
    return type_of(old, connection) == type_of(new, connection) and collations[0] == collations[1]


def widens(old: AnyField, new: AnyField) -> bool:
    """Return whether every value of the old field's type is, unchanged, one of the new field's."""
    old, new = target_of(old), target_of(new)
    sizes = INTEGERS.get(old.get_internal_type()), INTEGERS.get(new.get_internal_type())
    if sizes[0] and sizes[1]:
        return sizes[0] <= sizes[1]
    if isinstance(old, DecimalField) and isinstance(new, DecimalField):
        digits = [(each.max_digits or 0) - (each.decimal_places or 0) for each in (old, new)]
        return digits[0] <= digits[1] and (old.decimal_places or 0) <= (new.decimal_places or 0)
    return is_longer_text(old, new)


def is_longer_text(old: AnyField, new: AnyField) -> bool:
    """Return whether both are texts of the same collation, and the new one may be at least as long."""
    if not isinstance(old, (CharField, TextField)) or not isinstance(new, (CharField, TextField)):
        return False
    if getattr(old, "db_collation", None) != getattr(new, "db_collation", None):
        return False
    if isinstance(new, TextField) or new.max_length is None:
        return True
    return isinstance(old, CharField) and old.max_length is not None and old.max_length <= (new.max_length or 0)


def is_check_same(old: AnyField, new: AnyField, connection: BaseDatabaseWrapper) -> bool:
    """Return whether the column's own check, such as that of a positive integer, stays or goes."""
    check = new.db_check(connection)
    return not check or check == old.db_check(connection)


def may_reject(old: AnyField, new: AnyField, connection: BaseDatabaseWrapper) -> bool:
    """Return whether a value of the old field may not fit the new one."""
    if old.null and not new.null and not has_fixed_value(new):
        return True
    if new.unique and not old.unique:
        return True
    if has_index(new) and not has_index(old) and not fits_index(new):
        return True
    if not is_check_same(old, new, connection):
        return True
    return not keeps_type(old, new, connection) and not widens(old, new)


def has_fixed_value(field: AnyField) -> bool:
    """Return whether there is a value for rows that have none."""
    return field.has_default() or has_db_default(field)


def has_db_default(field: AnyField) -> bool:
    """Return whether the database has a default for the column (Django 5.0 or newer)."""
    return bool(getattr(field, "has_db_default", lambda: False)())


def has_index(field: AnyField) -> bool:
    """Return whether the field has an index of its own."""
    return bool(getattr(field, "db_index", False) or field.unique)


def fits_index(field: AnyField) -> bool:
    """Return whether every value of the field is small enough for an index."""
    found = target_of(field)
    if isinstance(found, CharField):
        return found.max_length is not None and found.max_length <= SMALL_TEXT
    return found.get_internal_type() not in ("BinaryField", "JSONField", "TextField", "ArrayField", "HStoreField")


def index_may_reject(index: Index, fields: dict[str, AnyField]) -> bool:
    """Return whether a row may not fit the index, because a value is too long or an expression fails."""
    if index.expressions or index.condition is not None:
        return True
    return not all(fits_index(fields[name]) for name, _ in index.fields_orders if name in fields)
