"""The rows of the tables that a migration touches: copies of them, and the differences between two copies."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, TypeAlias

from django.apps import apps
from django.db import connections, transaction
from django.db.models import Field, Model

from massmigration.paging.querysets import all_rows

OWN = "massmigration"
"""The app whose tables contain the records of runs."""

PAGE = 500

Values: TypeAlias = "dict[str, Any]"


def models_of(db_alias: str) -> dict[str, type[Model]]:
    """Return all models with a table of their own, by the names of their tables."""
    tables = set(connections[db_alias].introspection.table_names())
    found = {}
    for model in apps.get_models(include_auto_created=True):
        meta: Any = model._meta
        if meta.app_label != OWN and not meta.proxy and not meta.swapped and meta.db_table in tables:
            found[meta.db_table] = model
    return found


def columns_of(model: type[Model]) -> list[Field[Any, Any]]:
    """Return the fields in the model's own table that can be written."""
    return [field for field in model._meta.local_concrete_fields if not getattr(field, "generated", False)]


def compared_fields(model: type[Model]) -> list[Field[Any, Any]]:
    """Return the fields whose values are compared. Fields such as `auto_now` depend on the time of the save."""
    return [field for field in columns_of(model) if not field.primary_key and not sets_itself(field)]


def sets_itself(field: Any) -> bool:
    """Return whether the field sets its value when a row is saved."""
    return bool(getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between the rows that were expected and the rows that were found."""

    label: str
    """The label of the model, such as `shop.Product`."""

    pk: Any
    """The primary key, or None for rows that the migration has created."""

    field: str = ""
    expected: Any = None
    found: Any = None
    kind: str = "changed"
    """`changed`, `missing` or `added`."""

    def __str__(self) -> str:
        if self.pk is None:
            return f"{self.label}: {self.found} created rows are like {self.field}, expected {self.expected}"
        if self.kind == "missing":
            return f"{self.label} {self.pk} does not exist"
        if self.kind == "added":
            return f"{self.label} {self.pk} exists, although it was deleted"
        return f"{self.label} {self.pk}: {self.field} is {_short(self.found)}, expected {_short(self.expected)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Rows:
    """A copy of the rows of some tables."""

    def __init__(self, by_model: dict[type[Model], dict[Any, Values]]) -> None:
        self.by_model = by_model

    @classmethod
    def read(cls, db_alias: str, models: Iterable[type[Model]]) -> Rows:
        return cls({model: _read(db_alias, model) for model in models})

    def of(self, model: type[Model]) -> dict[Any, Values]:
        """Return the rows of a model by their primary keys."""
        return self.by_model.get(model, {})

    def without(self, model: type[Model], pk: Any) -> Rows:
        """Return a copy without one row."""
        rest = {key: values for key, values in self.of(model).items() if key != pk}
        return Rows({**self.by_model, model: rest})

    def restore(self, db_alias: str, models: Iterable[type[Model]]) -> None:
        """Make the rows of these models equal to this copy."""
        found = list(models)
        connection = connections[db_alias]
        with connection.constraint_checks_disabled(), transaction.atomic(using=db_alias):
            for model in reversed(found):
                _delete(db_alias, model)
            for model in found:
                insert(db_alias, model, self.of(model).values())

    def differences(self, found: Rows, initial: Rows) -> Iterator[Difference]:
        """Yield how `found` differs. Rows that are not in `initial` have been created, and have no fixed keys."""
        for model, expected in self.by_model.items():
            fields, label = compared_fields(model), model._meta.label
            others, known = found.of(model), initial.of(model)
            for pk in known:
                mine, other = expected.get(pk), others.get(pk)
                if mine is None and other is not None:
                    yield Difference(label=label, pk=pk, kind="added")
                elif other is None and mine is not None:
                    yield Difference(label=label, pk=pk, kind="missing")
                elif mine is not None and other is not None:
                    for field in fields:
                        if mine[field.attname] != other[field.attname]:
                            yield Difference(
                                label=label,
                                pk=pk,
                                field=field.name,
                                expected=mine[field.attname],
                                found=other[field.attname],
                            )
            yield from _created(label, fields, expected, others, known)

    def equal_in(self, other: Rows, model: type[Model], field: Any) -> bool:
        """Return whether no row of both copies differs in this field."""
        mine, theirs = self.of(model), other.of(model)
        return all(values[field.attname] == theirs[pk][field.attname] for pk, values in mine.items() if pk in theirs)


def _created(
    label: str, fields: list[Field[Any, Any]], expected: dict[Any, Values], found: dict[Any, Values], known: Any
) -> Iterator[Difference]:
    names = [field.attname for field in fields if not field.is_relation]

    def counted(rows: dict[Any, Values]) -> Counter[str]:
        return Counter(repr({name: values[name] for name in names}) for pk, values in rows.items() if pk not in known)

    mine, theirs = counted(expected), counted(found)
    for row in dict.fromkeys([*mine, *theirs]):
        if mine[row] != theirs[row]:
            yield Difference(label=label, pk=None, field=row, expected=mine[row], found=theirs[row])


def _read(db_alias: str, model: type[Model]) -> dict[Any, Values]:
    pk = _pk_name(model)
    names = [field.attname for field in columns_of(model)]
    return {values[pk]: values for values in all_rows(model, db_alias).order_by("pk").values(*names)}


def _pk_name(model: type[Model]) -> str:
    meta: Any = model._meta
    return str(meta.pk.attname)


def _delete(db_alias: str, model: type[Model]) -> None:
    connection = connections[db_alias]
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {connection.ops.quote_name(model._meta.db_table)}")


def insert(db_alias: str, model: type[Model], rows: Iterable[Values]) -> None:
    """Insert rows exactly as they were read, without signals or `save()`."""
    rows_of_model: Any = all_rows(model, db_alias)
    objects = [SimpleNamespace(**values) for values in rows]
    for start in range(0, len(objects), PAGE):
        rows_of_model._insert(objects[start : start + PAGE], fields=columns_of(model), raw=True, using=db_alias)
