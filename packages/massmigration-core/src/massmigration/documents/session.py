"""The writes of a transaction: a document database shows it only what was stored before the transaction began."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.db import connections
from django.db.models import Model, QuerySet

from massmigration.paging.querysets import all_rows

AT_ONCE = 100
"""The number of keys in one query."""

PAGE = 300
"""The number of rows in one answer: the client refuses an answer of more than 4 MB."""

_DERIVED = ("iexact", "year", "month", "day", "week_day", "hour", "minute", "second")
"""Lookups for which gcloudc stores a property besides the field's own."""


@dataclasses.dataclass
class Session:
    """One transaction's own writes."""

    transaction: Any
    written: dict[tuple[type[Model], Any], Model | None] = dataclasses.field(default_factory=dict)
    """By model and key; None: deleted."""


def current(db_alias: str) -> Session | None:
    """Return the session of the transaction that is open on this thread's connection. None: there is none."""
    wrapper: Any = connections[db_alias]
    connection = wrapper.connection
    transaction = getattr(connection, "_txn", None)
    if transaction is None:
        return None
    session: Session | None = getattr(connection, "massmigration_session", None)
    if session is None or session.transaction is not transaction:
        session = connection.massmigration_session = Session(transaction)
    return session


def by_keys(model: type[Model], db_alias: str, keys: list[Any]) -> list[Model]:
    """Return the rows with these keys, with the changes of this transaction."""
    session = current(db_alias)
    written = session.written if session else {}
    unknown = [key for key in keys if (model, key) not in written]
    own = [written[model, key] for key in keys if (model, key) in written]
    rows = [copy.copy(row) for row in own if row is not None]
    for start in range(0, len(unknown), AT_ONCE):
        page = unknown[start : start + AT_ONCE]
        found = all_rows(model, db_alias).order_by().filter(**({"pk": page[0]} if len(page) == 1 else {"pk__in": page}))
        rows += _read(found, db_alias)
    return rows


def matching(model: type[Model], db_alias: str, conditions: Mapping[str, Any]) -> Iterator[Model]:
    """Yield the rows that meet these conditions on indexed fields, in the order of their keys.

    The rows that this transaction has written come first, whether they meet the conditions or not.
    """
    session = current(db_alias)
    own = {key: row for (kind, key), row in session.written.items() if kind is model} if session else {}
    yield from (copy.copy(row) for _, row in sorted(own.items()) if row is not None)
    last: dict[str, Any] = {}
    while True:
        with _own_writes_hidden(db_alias):
            rows = all_rows(model, db_alias).filter(**{**conditions, **last}).order_by("pk")
            page = _read(rows[:PAGE], db_alias)
        yield from (row for row in page if row.pk not in own)
        if len(page) < PAGE:
            return
        last = {"pk__gt": page[-1].pk}


@contextlib.contextmanager
def _own_writes_hidden(db_alias: str) -> Iterator[None]:
    """Hide the transaction's writes from gcloudc, which refuses a query that could return them."""
    connection: Any = connections[db_alias].connection
    written = getattr(connection, "_cache", None)
    if not written:
        yield
        return
    connection._cache = {}
    try:
        yield
    finally:
        connection._cache = {**written, **connection._cache}


def deleted(model: type[Model], db_alias: str) -> set[Any]:
    """Return the keys of a model's objects that this transaction has deleted: gcloudc still reads them."""
    connection: Any = connections[db_alias]
    staged = getattr(connection.connection, "_staged_writes", {})
    keys = [key.id_or_name for key, (_, entity) in staged.items() if entity is None and key.path[-1] == _table(model)]
    field: Any = model._meta.pk
    return {field.to_python(key) for key in keys}


def remove_property(objects: Iterable[Model], name: str, db_alias: str) -> int:
    """Remove a property from the objects' entities, in this transaction. Return how many had it.

    The properties that gcloudc derives from it for lookups are removed as well.
    """
    wrapper: Any = connections[db_alias]
    wrapper.ensure_connection()
    connection = wrapper.connection
    names = {name, *(f"_idx_{kind}_{name}" for kind in _DERIVED)}
    changed = 0
    for entity in connection.get([_native_key(obj, wrapper) for obj in objects]):
        present = names.intersection(entity.keys())
        for each in present:
            del entity[each]
        if present:
            connection.put(entity)
            changed += 1
    return changed


def _native_key(obj: Model, wrapper: Any) -> Any:
    field: Any = obj._meta.pk
    key = wrapper.ops.value_for_db(field.get_db_prep_save(obj.pk, wrapper), field)
    return wrapper.connection.new_key(_table(type(obj)), key, namespace=wrapper.namespace)


def written(db_alias: str) -> tuple[int, int]:
    """Return the number of entities that this transaction will write, and about how many bytes they have."""
    connection: Any = connections[db_alias].connection
    entities = [entity for _, entity in getattr(connection, "_staged_writes", {}).values()]
    return len(entities), sum(_size(entity._properties) for entity in entities if entity is not None)


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(name) + 1 + _size(each) for name, each in value.items())
    if isinstance(value, (list, tuple, set)):
        return sum(_size(each) for each in value)
    return len(value.encode() if isinstance(value, str) else value) + 1 if isinstance(value, (str, bytes)) else 8


def _table(model: type[Model]) -> str:
    return [*model._meta.get_parent_list(), model][0]._meta.db_table


def remember(row: Model, db_alias: str, *, is_deleted: bool = False) -> None:
    """Remember a row that is about to be written."""
    session = current(db_alias)
    if session is not None:
        session.written[type(row), row.pk] = None if is_deleted else copy.copy(row)


def _read(queryset: QuerySet[Any], db_alias: str) -> list[Any]:
    rows = list(queryset)
    for row in rows:
        is_v03_entity = row.is_v03_entity
        _complete(row)
        if is_v03_entity:
            row.convert_v03_entity(db_alias)
        row.defer_long_texts()
    return rows


def _complete(row: Model) -> None:
    """Set the fields that the entity lacks, because it was saved before the model had them, to their defaults."""
    for field in row._meta.concrete_fields:
        if getattr(row, field.attname) is None and not field.null:
            setattr(row, field.attname, field.get_default())
