"""Querysets of records: SQL's where the database has it, else the same by get, check and save in a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

from django.db import models, transaction
from django.db.models import F, OrderBy
from django.db.models.lookups import Exact, In
from django.db.models.query import FlatValuesListIterable, ValuesIterable, ValuesListIterable
from django.db.models.sql.where import AND

from massmigration.documents import session
from massmigration.documents.evaluating import evaluate, matches
from massmigration.stores import is_of_documents

_M = TypeVar("_M", bound=models.Model)


class RecordQuerySet(models.QuerySet[_M]):
    """What the recorder asks of records. On a database of documents, conditions are evaluated here."""

    @property
    def _has_documents(self) -> bool:
        return is_of_documents(self.db)

    def _fetch_all(self) -> None:
        if self._result_cache is None and self._has_documents:
            self._result_cache = list(self._results())
        super()._fetch_all()

    def iterator(self, chunk_size: int | None = None) -> Iterator[Any]:
        return iter(self._results()) if self._has_documents else super().iterator(chunk_size)

    def exists(self) -> bool:
        return bool(self._rows()) if self._has_documents else super().exists()

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
                session.note(row, self.db, row.group_value, is_deleted=True)
        return len(rows), {self.model._meta.label: len(rows)}

    def bulk_create(self, objs: Iterable[_M], *args: Any, **kwargs: Any) -> list[_M]:
        if not self._has_documents:
            return super().bulk_create(objs, *args, **kwargs)
        made = list(objs)
        with transaction.atomic(using=self.db):
            for each in made:
                each.save(force_insert=True, using=self.db)
        return made

    def select_for_update(self, *args: Any, **kwargs: Any) -> Any:
        # What a transaction has read is not changed by others before it commits, or it does not commit.
        return self.all() if self._has_documents else super().select_for_update(*args, **kwargs)

    def _save(self, row: Any, given: dict[str, Any]) -> None:
        values = {name: self.value_of(each, row) for name, each in given.items()}
        session.prepare(row, self.db)
        self._of(row).update(**values)
        for name, value in values.items():
            setattr(row, name, value)
        session.note(row, self.db, row.group_value)

    def value_of(self, given: Any, row: Any) -> Any:
        """What an expression stands for, as a value for a row."""
        return evaluate(self._resolved(given), [row]) if hasattr(given, "resolve_expression") else given

    def _of(self, row: Any) -> models.QuerySet[Any]:
        return models.QuerySet(model=self.model, using=self.db).filter(pk=row.pk)

    def _resolved(self, expression: Any) -> Any:
        return expression.resolve_expression(self.model._default_manager.using(self.db).query)

    def _rows(self) -> list[Any]:
        """The rows that meet the conditions, in order, within the slice."""
        query = self.query
        if query.is_empty():
            return []
        rows = [row for row in self._candidates() if matches(query.where, row)]
        for name, expression in query.annotations.items():
            if not expression.contains_aggregate:
                for row in rows:
                    setattr(row, name, evaluate(expression, [row]))
        if any(each.contains_aggregate for each in query.annotations.values()):
            return rows
        return self._sliced(self._ordered(rows))

    def _candidates(self) -> list[Any]:
        """By key or by group where the conditions say so; otherwise all there are."""
        exact: dict[str, Any] = {}
        where = self.query.where
        if where.connector == AND and not where.negated:
            for child in where.children:
                if isinstance(child, (Exact, In)) and hasattr(child.lhs, "target"):
                    is_value = not hasattr(child.rhs, "resolve_expression") and not hasattr(child.rhs, "query")
                    if is_value:
                        exact[child.lhs.target.attname] = [child.rhs] if isinstance(child, Exact) else list(child.rhs)
        model: Any = self.model
        keys = model.keys_among({name: value[0] for name, value in exact.items() if len(value) == 1})
        if model._meta.pk.attname in exact:
            keys = exact[model._meta.pk.attname]
        if keys is not None:
            return session.by_keys(model, self.db, list(dict.fromkeys(keys)))
        if model.group and model.group in exact and len(exact[model.group]) == 1:
            return session.by_group(model, self.db, model.group, exact[model.group][0])
        return session.everything(model, self.db)

    def _ordered(self, rows: list[Any]) -> list[Any]:
        query = self.query
        names: Any = query.order_by or (self.model._meta.ordering if query.default_ordering else ())
        for name in reversed(names):
            ordering: Any = name if isinstance(name, OrderBy) else F(name.lstrip("-"))
            given = getattr(ordering, "expression", ordering).name
            is_descending = name.descending if isinstance(name, OrderBy) else name.startswith("-")
            rows = sorted(rows, key=lambda row: _sortable(getattr(row, given)), reverse=is_descending)
        return rows if query.standard_ordering else rows[::-1]

    def _sliced(self, rows: list[Any]) -> list[Any]:
        return rows[self.query.low_mark : self.query.high_mark]

    def _results(self) -> Iterable[Any]:
        """What the queryset is a sequence of: objects, dicts, tuples or values."""
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
        """A row for each group, where an annotation is an aggregate."""
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


class RecordManager(models.Manager[_M]):
    """Gives the querysets above."""

    def get_queryset(self) -> RecordQuerySet[_M]:
        return RecordQuerySet(self.model, using=self._db)


def _sortable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value)
