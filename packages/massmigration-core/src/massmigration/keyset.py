"""Keyset paging: conditions and orderings over the fields of a unique, ordered key.

Keys are compared by the database alone, so collations cannot disagree.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

from django.db.models import Field, Model, Q, QuerySet
from django.db.models.sql.where import AND

from massmigration import keys
from massmigration.keys import Key


@dataclasses.dataclass(frozen=True, slots=True)
class Keyset:
    """The attribute names of the key's fields, most significant first."""

    fields: tuple[str, ...]

    @classmethod
    def of(cls, model: type[Model]) -> Keyset:
        """The primary key of `model`: composite since Django 5.2, a relation for an inherited model."""
        pk = model._meta.pk
        if pk is None:
            raise TypeError(f"{model._meta.label} has no primary key.")
        parts = getattr(model._meta, "pk_fields", None) or [pk]
        return cls(tuple(field.attname for field in parts))

    @classmethod
    def by(cls, field: Field[Any, Any]) -> Keyset:
        """One field that is unique and never null."""
        return cls((field.attname,))

    def loaded(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """`queryset`, with the key's fields among those that it loads: `only()` and `defer()` may leave them out."""
        names, is_defer = queryset.query.deferred_loading
        own = {queryset.model._meta.get_field(name).name for name in self.fields}
        if is_defer:
            return queryset.defer(None).defer(*names - own) if names & own else queryset
        return queryset.only(*names | own)

    def key_of(self, obj: Model) -> Key:
        return tuple(getattr(obj, field) for field in self.fields)

    def keys_of(self, objects: Sequence[Model]) -> list[Key]:
        return list(zip(*(map(operator.attrgetter(field), objects) for field in self.fields), strict=True))

    def encoded_key_of(self, obj: Model) -> list[Any]:
        return keys.encode(self.key_of(obj))

    def page(self, queryset: QuerySet[Any], after: list[Any] | None, upper: list[Any] | None) -> QuerySet[Any]:
        """The rows with `after` < key <= `upper` (encoded keys; None: no bound), in the key's order."""
        found = len(queryset.query.where.children)
        if after is not None:
            queryset = queryset.filter(self._compare("gt", keys.decode(after)))
        if upper is not None:
            queryset = queryset.filter(self._up_to(keys.decode(upper)))
        where: Any = queryset.query.where
        if where.connector == AND:
            # Of several bounds of one key, SQLite seeks the first, and reads from there.
            where.children[:] = where.children[found:] + where.children[:found]
        return queryset.order_by(*self.fields)

    def rows(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Only the keys, as tuples."""
        return queryset.values_list(*self.fields)

    def exactly(self, key: Key) -> Q:
        return Q(**dict(zip(self.fields, key, strict=True)))

    def among(self, found: list[Key]) -> Q:
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
        """Strict comparison with `key`, in the expanded form.

        A leading `>=` stands beside it: MariaDB does not seek on a row comparison or an OR alone.
        """
        condition = Q()
        equal: dict[str, Any] = {}
        for field, value in zip(self.fields, key, strict=True):
            condition |= Q(**equal, **{f"{field}__{lookup}": value})
            equal[field] = value
        if len(self.fields) > 1:
            condition &= Q(**{f"{self.fields[0]}__{lookup}e": key[0]})
        return condition
