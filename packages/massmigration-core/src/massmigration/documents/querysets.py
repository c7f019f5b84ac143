"""Querysets of records on a document database: get, check and save in a transaction instead of SQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

from django.db import models, transaction
from django.db.models import F, OrderBy
from django.db.models.lookups import Exact, In, Lookup
from django.db.models.query import FlatValuesListIterable, ValuesIterable, ValuesListIterable
from django.db.models.sql.where import AND

from massmigration.dialects import is_document_database
from massmigration.documents import session
from massmigration.documents.conditions import evaluate, matches
from massmigration.paging.querysets import all_rows

BOUNDS = frozenset({"gt", "gte", "lt", "lte"})
"""Comparisons of keys that a document database evaluates itself."""

WRITTEN_AT_ONCE = 100
"""The number of rows that one transaction writes, with one or two entities each; 500 entities are allowed."""

_M = TypeVar("_M", bound=models.Model)


class DocumentQuerySet(models.QuerySet[_M]):
    """A queryset of records that evaluates conditions in Python if its database is a document database.

    A queryset without a chosen database learns only from the routers which one it is.
    """

    @property
    def _has_documents(self) -> bool:
        return is_document_database(self.db)

    def _fetch_all(self) -> None:
        if self._result_cache is None and self._has_documents:
            self._result_cache = list(self._results())
        super()._fetch_all()

    def iterator(self, chunk_size: int | None = None) -> Iterator[Any]:
        return iter(self._results()) if self._has_documents else super().iterator(chunk_size)

    def exists(self) -> bool:
        return any(True for _ in self[:1]._rows()) if self._has_documents else super().exists()

    def count(self) -> int:
        return len(list(self._results())) if self._has_documents else super().count()

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if not self._has_documents:
            return super().aggregate(*args, **kwargs)
        rows = self._rows()
        named = {each.default_alias: each for each in args} | kwargs
        return {name: evaluate(self._resolved(each), rows) for name, each in named.items()}

    def update(self, **kwargs: Any) -> int:
        if not self._has_documents:
            return super().update(**kwargs)
        with transaction.atomic(using=self.db):
            rows = self._rows()
            for row in rows:
                self._save(row, kwargs)
        self._result_cache = None
        return len(rows)

    def delete(self) -> tuple[int, dict[str, int]]:
        if not self._has_documents:
            return super().delete()
        with transaction.atomic(using=self.db):
            rows = self._rows()
            for row in rows:
                self._of(row)._raw_delete(self.db)
                row.delete_long_texts(self.db)
                session.remember(row, self.db, is_deleted=True)
        return len(rows), {self.model._meta.label: len(rows)}

    def pages(self) -> Iterator[DocumentQuerySet[_M]]:
        """Yield querysets of some rows each, with all conditions. Call outside of a transaction."""
        last: dict[str, Any] = {}
        while keys := [row.pk for row in self.filter(**last).order_by("pk")[:WRITTEN_AT_ONCE]]:
            yield self.filter(pk__in=keys)
            last = {"pk__gt": keys[-1]}

    def bulk_create(self, objs: Iterable[_M], *args: Any, **kwargs: Any) -> list[_M]:
        if not self._has_documents:
            return super().bulk_create(objs, *args, **kwargs)
        made = list(objs)
        with transaction.atomic(using=self.db):
            for each in made:
                each.save(force_insert=True, using=self.db)
        return made

    def select_for_update(self, *args: Any, **kwargs: Any) -> Any:
        # If another transaction changes what this one has read, this one cannot commit.
        return self.all() if self._has_documents else super().select_for_update(*args, **kwargs)

    def _save(self, row: Any, given: dict[str, Any]) -> None:
        values = {name: self.value_of(each, row) for name, each in given.items()}
        kept = {name: row.stored_value(name, value) for name, value in values.items()}
        self._of(row).update(**kept)
        for name, value in kept.items():
            setattr(row, name, value)
        row.write_long_texts(values, self.db)
        row.defer_long_texts()
        session.remember(row, self.db)

    def value_of(self, given: Any, row: Any) -> Any:
        """Return a value, or the value of an expression for a row."""
        return evaluate(self._resolved(given), [row]) if hasattr(given, "resolve_expression") else given

    def _of(self, row: Any) -> models.QuerySet[Any]:
        return all_rows(self.model, self.db).filter(pk=row.pk)

    def _resolved(self, expression: Any) -> Any:
        return expression.resolve_expression(self.model._default_manager.using(self.db).query)

    def _rows(self) -> list[Any]:
        """Return the rows that meet the conditions, in order and sliced."""
        query = self.query
        if query.is_empty():
            return []
        annotations = query.annotations.items()
        found = self._matching()
        if query.high_mark is not None and self._is_in_order() and not annotations:
            return list(itertools.islice(found, query.low_mark, query.high_mark))
        rows = list(found)
        for name, expression in annotations:
            if not expression.contains_aggregate:
                for row in rows:
                    setattr(row, name, evaluate(expression, [row]))
        if any(each.contains_aggregate for _, each in annotations):
            return rows
        return self._sliced(self._ordered(rows))

    def _matching(self) -> Iterator[Any]:
        return (row for row in self._candidates() if matches(self.query.where, row))

    def _is_in_order(self) -> bool:
        """Return whether candidates come in the queryset's order: none was written by this transaction."""
        names = self._order()
        of_one_kind = session.current(self.db)
        is_written = of_one_kind is not None and any(model is self.model for model, _ in of_one_kind.written)
        is_by_key = not names or (list(names) == ["pk"] and self.query.standard_ordering)
        return is_by_key and not is_written

    def _candidates(self) -> Iterable[Any]:
        """Return the rows by key or by indexed fields, if conditions name them, or else all rows."""
        exact, bounds = self._conditions()
        model: Any = self.model
        keys = model.keys_among({name: value[0] for name, value in exact.items() if len(value) == 1})
        if model._meta.pk.attname in exact:
            keys = exact[model._meta.pk.attname]
        if keys is not None:
            return session.by_keys(model, self.db, list(dict.fromkeys(keys)))
        indexed = {name: exact[name][0] for name in model.indexed if len(exact.get(name, ())) == 1}
        return session.matching(model, self.db, {**indexed, **bounds})

    def _conditions(self) -> tuple[dict[str, list[Any]], dict[str, Any]]:
        """Return the values that rows must have, by field, and the bounds of their keys."""
        exact: dict[str, list[Any]] = {}
        bounds: dict[str, Any] = {}
        where = self.query.where
        for child in where.children if where.connector == AND and not where.negated else ():
            if not isinstance(child, Lookup) or not hasattr(child.lhs, "target"):
                continue
            if hasattr(child.rhs, "resolve_expression") or hasattr(child.rhs, "query"):
                continue
            name = child.lhs.target.attname
            if isinstance(child, (Exact, In)):
                exact[name] = [child.rhs] if isinstance(child, Exact) else list(child.rhs)
            elif name == self.model._meta.pk.attname and child.lookup_name in BOUNDS:
                bounds[f"pk__{child.lookup_name}"] = child.rhs
        return exact, bounds

    def _ordered(self, rows: list[Any]) -> list[Any]:
        query = self.query
        for name in reversed(self._order()):
            ordering: Any = name if isinstance(name, OrderBy) else F(name.lstrip("-"))
            given = getattr(ordering, "expression", ordering).name
            is_descending = name.descending if isinstance(name, OrderBy) else name.startswith("-")
            rows = sorted(rows, key=lambda row: _sortable(getattr(row, given)), reverse=is_descending)
        return rows if query.standard_ordering else rows[::-1]

    def _order(self) -> Sequence[Any]:
        return self.query.order_by or (self.model._meta.ordering or () if self.query.default_ordering else ())

    def _sliced(self, rows: list[Any]) -> list[Any]:
        return rows[self.query.low_mark : self.query.high_mark]

    def _results(self) -> Iterable[Any]:
        """Return the queryset's elements: objects, dicts, tuples or values."""
        rows = self._rows()
        if not issubclass(self._iterable_class, (ValuesIterable, ValuesListIterable, FlatValuesListIterable)):
            return rows
        rows = self._grouped(rows)
        names = self._names()
        found: list[Any] = [tuple(getattr(row, name) for name in names) for row in rows]
        if self.query.distinct:
            found = list(dict.fromkeys(found))
        if issubclass(self._iterable_class, FlatValuesListIterable):
            return [value for (value,) in found]
        if issubclass(self._iterable_class, ValuesIterable):
            return [dict(zip(names, values, strict=True)) for values in found]
        return found

    def _names(self) -> list[str]:
        fields: Any = self._fields  # type: ignore[attr-defined]
        own = fields or [field.attname for field in self.model._meta.concrete_fields]
        return list(dict.fromkeys([*own, *self.query.annotations]))

    def _grouped(self, rows: list[Any]) -> list[Any]:
        """Return one row per group, if an annotation is an aggregate."""
        aggregates = {name: each for name, each in self.query.annotations.items() if each.contains_aggregate}
        if not aggregates:
            return rows
        names = [name for name in self._names() if name not in aggregates]
        groups: dict[Any, list[Any]] = {}
        for row in rows:
            groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
        found = [
            SimpleNamespace(
                **dict(zip(names, key, strict=True)),
                **{name: evaluate(each, members) for name, each in aggregates.items()},
            )
            for key, members in groups.items()
        ]
        return self._sliced(self._ordered(found) if self.query.order_by else found)


def in_pages(queryset: models.QuerySet[_M]) -> Iterable[models.QuerySet[_M]]:
    """Return the queryset, or on a document database several: each with as many rows as one transaction can write."""
    if isinstance(queryset, DocumentQuerySet) and is_document_database(queryset.db):
        return queryset.pages()
    return [queryset]


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, [_sortable_part(each) for each in value] if isinstance(value, list) else value)


def _sortable_part(part: Any) -> tuple[bool, Any]:
    """Return a part of a key: a number as it is; a type that JSON lacks, such as a UUID, as text."""
    return (False, part) if isinstance(part, (int, float)) else (True, part if isinstance(part, str) else str(part))
