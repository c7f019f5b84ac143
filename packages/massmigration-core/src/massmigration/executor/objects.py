"""The objects of a batch: fast loading, detection of changed fields, and writing of only those fields."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import decimal
import inspect
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from django.db import connections, transaction
from django.db.models import Field, Model, QuerySet
from django.db.models.base import ModelState
from django.db.models.fields.files import FileDescriptor, ImageFileDescriptor
from django.db.models.fields.related_descriptors import ForeignKeyDeferredAttribute
from django.db.models.query import ModelIterable
from django.db.models.query_utils import DeferredAttribute
from django.db.models.signals import post_init, pre_init

from massmigration import text
from massmigration.definitions.stages import writable
from massmigration.dialects import dialect_of
from massmigration.exceptions import RowNotWritten
from massmigration.paging.keyset import KEYS_AT_ONCE
from massmigration.paging.querysets import all_rows


class _Missing:
    """A placeholder for the value of a field that was not loaded."""


_MISSING = _Missing()
_IMMUTABLE = frozenset(
    {type(None), _Missing, bool, int, float, str, bytes, decimal.Decimal, uuid.UUID}
    | {dt.date, dt.time, dt.datetime, dt.timedelta}
    | {memoryview}  # the type in which psycopg2 returns bytes; it cannot be copied
)
_BYTES = frozenset({bytes, memoryview, bytearray})

Fields: TypeAlias = "tuple[Field[Any, Any], ...]"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The result of writing changed objects."""

    changed: int = 0
    """The number of rows that were written."""

    vanished: int = 0
    """The number of rows that others had already deleted."""

    deleted: int = 0
    """The number of rows that the operation itself had deleted."""

    def __add__(self, other: Written) -> Written:
        return Written(
            changed=self.changed + other.changed,
            vanished=self.vanished + other.vanished,
            deleted=self.deleted + other.deleted,
        )


class PendingUpdates:
    """Changed objects that are not written yet."""

    def __init__(self) -> None:
        self._changed: list[tuple[Model, Fields]] = []

    def add(self, obj: Model, fields: Fields) -> None:
        self._changed.append((obj, fields))

    def write(self, db_alias: str, *, are_held: bool = False, may_delete: bool = True) -> Written:
        """Write the objects, with one statement for each set of changed fields. Usually there is one set.

        `are_held`: the rows are locked, so no other process can have deleted them (default: False). `may_delete`: the
        operation may have deleted rows (default: True). Raise `RowNotWritten` if a row that must exist is not found.
        """
        groups: dict[Fields, list[Model]] = {}
        last: Fields | None = None
        for obj, fields in self._changed:
            if fields is not last:  # Django's fields are slow to hash
                last, members = fields, groups.setdefault(fields, [])
            members.append(obj)
        written = Written()
        for fields, members in groups.items():
            # Without a surrounding transaction, objects may be from a database other than the record's.
            alias = members[0]._state.db or db_alias
            written += _written(alias, members, fields, are_held=are_held, may_delete=may_delete)
        return written

    def write_object(self, db_alias: str, obj: Model) -> Written:
        """Write one of the objects in a savepoint. A value that its field or the driver refuses can raise anything."""
        fields = next((fields for each, fields in self._changed if each is obj), None)
        if fields is None:
            return Written()
        alias = obj._state.db or db_alias
        with transaction.atomic(using=alias):
            written = _written(alias, [obj], fields)
            connections[alias].check_constraints()
        return written


def _written(
    db_alias: str, objects: list[Model], fields: Fields, *, are_held: bool = False, may_delete: bool = True
) -> Written:
    count = dialect_of(db_alias).write(objects, fields)
    missing = len(objects) - count
    if not missing:
        return Written(changed=count)
    keys = [obj.pk for obj in objects if obj.pk is not None]  # Django sets the pk of a deleted object to None
    there = _there(db_alias, type(objects[0]), keys)
    label = type(objects[0])._meta.label
    if len(there) > count:
        raise RowNotWritten(
            f"{text.counted(len(there) - count, 'row')} of {label} can be read, but the statement that writes the "
            "assigned values does not find them. Row-level security may prevent the database user from changing them, "
            "or the key does not compare equal to itself."
        )
    if are_held and not may_delete and len(there) < len(keys):
        raise RowNotWritten(
            f"{text.counted(missing, 'row')} of {label} cannot be found by key, although the batch's rows "
            "were locked, and the operation deleted none. Set cursor_field to a field whose values the database "
            "stores exactly."
        )
    deleted = missing if are_held else len(objects) - len(keys)
    return Written(changed=count, vanished=missing - deleted, deleted=deleted)


def _there(db_alias: str, model: type[Model], keys: list[Any]) -> set[Any]:
    """Return the subset of the primary keys that exist in the table."""
    parts = (keys[start : start + KEYS_AT_ONCE] for start in range(0, len(keys), KEYS_AT_ONCE))
    rows = all_rows(model, db_alias)
    return {key for part in parts for key in rows.filter(pk__in=part).values_list("pk", flat=True)}


class DirtyFields:
    """The declared `update_fields` of a model."""

    def __init__(self, model: type[Model], names: Sequence[str], *, name: str) -> None:
        self._fields = tuple(writable(model, field_name, name=name) for field_name in names)
        self._attnames = [field.attname for field in self._fields]
        self._missing = [_MISSING] * len(self._fields)
        self._relations = [field for field in self._fields if field.is_relation]
        # Fields such as auto_now set their value when a row is saved.
        self._self_setting = [field for field in self._fields if type(field).pre_save is not Field.pre_save]

    def process(self, obj: Model, operation: Callable[[Any], None], updates: PendingUpdates) -> None:
        """Run `operation` on an object and add the changed fields to `updates`."""
        loaded = obj.__dict__
        before = [*map(loaded.get, self._attnames, self._missing)]
        kinds = [*map(type, before)]
        is_plain = _IMMUTABLE.issuperset(kinds)
        if not is_plain:
            before = [_kept(value) for value in before]
        operation(obj)
        if self._relations and obj._state.fields_cache:
            # As in save(): a related object that was assigned before it was saved may have its key only now.
            obj._prepare_related_fields_for_save(operation_name="save", fields=self._relations)  # type: ignore[attr-defined]
        after = [*map(loaded.get, self._attnames, self._missing)]
        # This runs for every row, so the usual cases come first.
        if is_plain and after == before and kinds == [*map(type, after)]:
            return
        is_whole = len(before) == 1 and after != before
        changed = self._fields if is_whole else self._differing(before, after)
        if changed and self._self_setting:
            for field in self._self_setting:
                field.pre_save(obj, add=False)
            changed = self._differing(before, [*map(loaded.get, self._attnames, self._missing)])
        if changed:
            updates.add(obj, changed)

    def _differing(self, before: list[Any], after: list[Any]) -> Fields:
        return tuple(
            field
            for field, new, old in zip(self._fields, after, before, strict=True)
            if new is not old and _differ(new, old)
        )


def _kept(value: Any) -> Any:
    """Return the value, or a copy if an operation could change it in place, such as the value of a JSON field."""
    return value if type(value) in _IMMUTABLE else copy.deepcopy(value)


def _differ(value: Any, before: Any) -> bool:
    if value != before:
        return True
    if type(value) is type(before) and type(value) in _IMMUTABLE:
        return False
    if type(value) in _BYTES and type(before) in _BYTES:
        return False
    # Equal values can differ in JSON: True == 1 and [1] == [1.0].
    # A value that equals a str or None, such as a file that was opened, is written in the same way.
    is_plain = before is None or isinstance(before, str)
    return not is_plain and repr(value) != repr(before)


# Django takes 2.4 us to create an object from a row, mostly in `Model.__init__`, which must accept any values. The code
# below takes 0.7 us (SQLite, three columns). The objects and the SQL are the same.

_MAKING = ("__new__", "__init__", "__setattr__", "__getattribute__", "from_db")
_FETCHING = ("__iter__", "_fetch_all")

# These descriptors only store a value that was loaded. Other descriptors may do more.
_KEEPING = frozenset({DeferredAttribute, ForeignKeyDeferredAttribute, FileDescriptor, ImageFileDescriptor})


class PlainIterable(ModelIterable):  # type: ignore[type-arg]
    """A faster `ModelIterable` for models and querysets that need no more than the values and the state."""

    def __iter__(self) -> Iterator[Any]:
        queryset = self.queryset
        model, db_alias = queryset.model, queryset.db
        compiler = queryset.query.get_compiler(using=db_alias)
        results = compiler.execute_sql(chunked_fetch=self.chunked_fetch, chunk_size=self.chunk_size)
        names = [compiler.select[place][0].target.attname for place in compiler.klass_info["select_fields"]]
        state_of = {"adding": False, "db": db_alias}
        if hasattr(queryset, "_fetch_mode"):  # since Django 6.1
            state_of["fetch_mode"] = queryset._fetch_mode
        make = model.__new__
        for row in compiler.results_iter(results):
            obj = make(model)
            state = ModelState()
            state.__dict__.update(state_of)
            values = obj.__dict__
            values["_state"] = state
            values.update(zip(names, row))  # noqa: B905  columns that only sort come after the model's
            yield obj


def loaded_plainly(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """Return the queryset with `PlainIterable` if its model allows that, else unchanged."""
    if not (_is_plain_queryset(queryset) and _is_plain_model(queryset.model)):
        return queryset
    plain = queryset.all()
    plain._iterable_class = PlainIterable
    return plain


def _is_plain_queryset(queryset: QuerySet[Any]) -> bool:
    """Return whether the queryset loads only the columns of the model's own table."""
    query: Any = queryset.query
    given: Any = queryset
    fetches = getattr(getattr(given, "_fetch_mode", None), "track_peers", False)
    return (
        given._iterable_class is ModelIterable
        and not (query.select_related or query.annotations or query.extra or fetches)
        and not (given._prefetch_related_lookups or given._known_related_objects)
        and all(getattr(type(given), name) is getattr(QuerySet, name) for name in _FETCHING)
        and dialect_of(queryset.db).has_sql
    )


def _is_plain_model(model: type[Model]) -> bool:
    """Return whether creating an object of the model only stores its values."""
    own = [part for part in model.__mro__ if part not in (Model, object)]
    return (
        not model._meta.parents
        and not any(name in vars(part) for part in own for name in _MAKING)
        and all(type(inspect.getattr_static(model, field.attname)) in _KEEPING for field in model._meta.concrete_fields)
        and not (pre_init.has_listeners(model) or post_init.has_listeners(model))
    )
