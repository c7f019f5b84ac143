"""Finds out which fields an operation changed, and writes those alone."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, Model

from massmigration.exceptions import BadMigrationFile
from massmigration.writers import write

_IMMUTABLE = frozenset(
    {type(None), bool, int, float, str, bytes, decimal.Decimal, uuid.UUID}
    | {dt.date, dt.time, dt.datetime, dt.timedelta}
)
_MISSING = object()


class Writes:
    """Changed objects that wait to be written, grouped by the fields that changed: usually one group, one statement."""

    def __init__(self) -> None:
        self._groups: dict[tuple[Field[Any, Any], ...], list[Model]] = {}

    def add(self, obj: Model, fields: tuple[Field[Any, Any], ...]) -> None:
        self._groups.setdefault(fields, []).append(obj)

    def flush(self, db_alias: str) -> int:
        """Write them. Return how many of their rows had vanished."""
        groups, self._groups = self._groups, {}
        return sum(len(members) - write(db_alias, members, fields) for fields, members in groups.items())


class Changes:
    """The declared `update_fields` of a model."""

    def __init__(self, model: type[Model], names: Sequence[str], *, name: str) -> None:
        self._fields = [_field(model, field_name, name) for field_name in names]
        self._attnames = [field.attname for field in self._fields]
        # auto_now and the like set themselves when a row is saved.
        self._self_setting = [field for field in self._fields if type(field).pre_save is not Field.pre_save]

    def operate(self, obj: Model, operation: Callable[[Any], None], writes: Writes) -> None:
        """Run `operation` on an object and add what it changed to `writes`."""
        before = self._values(obj)
        operation(obj)
        changed = self._changed(obj, before)
        if changed:
            writes.add(obj, tuple(self._fields[index] for index in changed))

    def _values(self, obj: Model) -> list[Any]:
        loaded = obj.__dict__
        values = [loaded.get(name, _MISSING) for name in self._attnames]
        return [value if type(value) in _IMMUTABLE or value is _MISSING else copy.deepcopy(value) for value in values]

    def _changed(self, obj: Model, before: list[Any]) -> tuple[int, ...]:
        changed = self._differing(obj, before)
        if changed and self._self_setting:
            for field in self._self_setting:
                field.pre_save(obj, add=False)
            changed = self._differing(obj, before)
        return changed

    def _differing(self, obj: Model, before: list[Any]) -> tuple[int, ...]:
        loaded = obj.__dict__
        return tuple(
            index
            for index, name in enumerate(self._attnames)
            if (value := loaded.get(name, _MISSING)) is not before[index] and _differ(value, before[index])
        )


def _differ(value: Any, before: Any) -> bool:
    if value != before:
        return True
    if type(value) is type(before) and type(value) in _IMMUTABLE:
        return False
    # Equal is not the same for all: True == 1 and [1] == [1.0], which differ in JSON.
    is_text = isinstance(value, str) and isinstance(before, str)
    return not is_text and repr(value) != repr(before)


def _field(model: type[Model], field_name: str, name: str) -> Field[Any, Any]:
    label = model._meta.label
    try:
        field = model._meta.get_field(field_name)
    except FieldDoesNotExist:
        known = ", ".join(sorted(field.name for field in model._meta.concrete_fields))
        raise BadMigrationFile(
            f"update_fields of migration {name!r} names {field_name!r}, which {label} does not have; it has: {known}."
        ) from None
    if not isinstance(field, Field) or not field.concrete or field.primary_key or getattr(field, "generated", False):
        raise BadMigrationFile(
            f"update_fields of migration {name!r} names {field_name!r}, which is not a column of {label} that can be "
            "written: primary keys, generated columns, reverse and many-to-many relations cannot."
        )
    return field
