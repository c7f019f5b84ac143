"""Keyset pagination: conditions and orderings over the fields of a unique, ordered key, and keys as JSON.

Only the database compares keys, so collations cannot disagree.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import operator
import uuid
from collections.abc import Sequence
from typing import Any

from django.db.models import Field, Model, Q, QuerySet
from django.db.models.sql.where import AND

Key = tuple[Any, ...]
"""The values of the key's fields in one row, in order: one value for most models."""

# datetime before date: a datetime is a date.
_TYPES: tuple[tuple[str, type, Any, Any], ...] = (
    ("uuid", uuid.UUID, str, uuid.UUID),
    ("decimal", decimal.Decimal, str, decimal.Decimal),
    ("datetime", dt.datetime, dt.datetime.isoformat, dt.datetime.fromisoformat),
    ("date", dt.date, dt.date.isoformat, dt.date.fromisoformat),
    ("time", dt.time, dt.time.isoformat, dt.time.fromisoformat),
    (
        "duration",
        dt.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda data: dt.timedelta(*data),
    ),
)


def encode_key(key: Key) -> list[Any]:
    """Return a key as JSON. Raise `TypeError` for a value whose type cannot be in a cursor."""
    return [_encode_value(value) for value in key]


def decode_key(data: list[Any]) -> Key:
    """Return the key that `encode_key` was given."""
    return tuple(_decode_value(item) for item in data)


def _encode_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, float):
        return {"float": value.hex()}
    for tag, kind, to_json, _ in _TYPES:
        if isinstance(value, kind):
            return {tag: to_json(value)}
    raise TypeError(f"A key of type {type(value).__name__} cannot be stored as a cursor: {value!r}.")


def _decode_value(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    ((tag, data),) = item.items()
    if tag == "bytes":
        return base64.b64decode(data)
    if tag == "float":
        return float.fromhex(data)
    return next(from_json for name, _, _, from_json in _TYPES if name == tag)(data)


KEYS_AT_ONCE = 500
"""The largest number of keys in one condition."""


@dataclasses.dataclass(frozen=True, slots=True)
class Keyset:
    """The attribute names of a key's fields, the most significant first."""

    fields: tuple[str, ...]

    @classmethod
    def of(cls, model: type[Model]) -> Keyset:
        """Return the primary key of `model`: composite since Django 5.2, a relation for an inherited model."""
        pk = model._meta.pk
        if pk is None:
            raise TypeError(f"{model._meta.label} has no primary key.")
        parts = getattr(model._meta, "pk_fields", None) or [pk]
        return cls(tuple(field.attname for field in parts))

    @classmethod
    def by(cls, field: Field[Any, Any]) -> Keyset:
        """Return the key that consists of one field, which must be unique and never null."""
        return cls((field.attname,))

    def loaded(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return `queryset` with the key's fields among the loaded ones, whatever `only()` and `defer()` say.

        The keys of parent models are loaded as well: fields can be written in the parents' tables.
        """
        names, is_defer = queryset.query.deferred_loading
        meta: Any = queryset.model._meta
        own = {meta.get_field(name).name for name in self.fields}
        own |= {parent._meta.pk.name for parent in meta.get_parent_list() if parent._meta.pk}
        if is_defer:
            return queryset.defer(None).defer(*names - own) if names & own else queryset
        return queryset.only(*names | own)

    def key_of(self, obj: Model) -> Key:
        """Return the key of an object."""
        return tuple(getattr(obj, field) for field in self.fields)

    def keys_of(self, objects: Sequence[Model]) -> list[Key]:
        """Return the keys of objects."""
        return list(zip(*(map(operator.attrgetter(field), objects) for field in self.fields), strict=True))

    def encoded_key_of(self, obj: Model) -> list[Any]:
        """Return the key of an object, as JSON."""
        return encode_key(self.key_of(obj))

    def page(self, queryset: QuerySet[Any], after: list[Any] | None, upper: list[Any] | None) -> QuerySet[Any]:
        """Return the rows with `after` < key <= `upper` (encoded keys; None: no bound), in the key's order."""
        found = len(queryset.query.where.children)
        if after is not None:
            queryset = queryset.filter(self._compare("gt", decode_key(after)))
        if upper is not None:
            queryset = queryset.filter(self._up_to(decode_key(upper)))
        where: Any = queryset.query.where
        if where.connector == AND:
            # If a key has several bounds, SQLite seeks the first one and reads from there.
            where.children[:] = where.children[found:] + where.children[:found]
        return queryset.order_by(*self.fields)

    def rows(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the keys of a queryset, as tuples."""
        return queryset.values_list(*self.fields)

    def exactly(self, key: Key) -> Q:
        """Return the condition that a row has this key."""
        return Q(**dict(zip(self.fields, key, strict=True)))

    def among(self, found: list[Key]) -> Q:
        """Return the condition that a row has one of these keys."""
        if len(self.fields) == 1:
            return Q(**{f"{self.fields[0]}__in": [value for (value,) in found]})
        condition = Q()
        for key in found:
            condition |= self.exactly(key)
        return condition

    def _up_to(self, key: Key) -> Q:
        if len(key) == 1:
            return Q(**{f"{self.fields[0]}__lte": key[0]})
        return (self._compare("lt", key) | self.exactly(key)) & Q(**{f"{self.fields[0]}__lte": key[0]})

    def _compare(self, lookup: str, key: Key) -> Q:
        """Return a strict comparison with `key`, in the expanded form.

        A `>=` of the first field is added: MariaDB does not seek by a row comparison or an OR alone.
        """
        condition = Q()
        equal: dict[str, Any] = {}
        for field, value in zip(self.fields, key, strict=True):
            condition |= Q(**equal, **{f"{field}__{lookup}": value})
            equal[field] = value
        if len(self.fields) > 1:
            condition &= Q(**{f"{self.fields[0]}__{lookup}e": key[0]})
        return condition
