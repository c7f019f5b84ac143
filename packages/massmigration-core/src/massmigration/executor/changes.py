"""Finds out which fields an operation changed, and writes those alone."""

from __future__ import annotations

import copy
import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from django.db import DatabaseError, connections, transaction
from django.db.models import Field, Model

from massmigration.fields import writable
from massmigration.transient import is_transient
from massmigration.writers import write


class _Missing:
    """In place of the value of a field that was not loaded."""


_MISSING = _Missing()
_IMMUTABLE = frozenset(
    {type(None), _Missing, bool, int, float, str, bytes, decimal.Decimal, uuid.UUID}
    | {dt.date, dt.time, dt.datetime, dt.timedelta}
)

Fields: TypeAlias = "tuple[Field[Any, Any], ...]"


class Writes:
    """Changed objects that wait to be written."""

    def __init__(self) -> None:
        self._changed: list[tuple[Model, Fields]] = []

    def add(self, obj: Model, fields: Fields) -> None:
        self._changed.append((obj, fields))

    def flush(self, db_alias: str) -> int:
        """Write them, grouped by the fields that changed: usually one group, one statement.

        Return how many of their rows had vanished.
        """
        groups: dict[Fields, list[Model]] = {}
        last: Fields | None = None
        for obj, fields in self._changed:
            if fields is not last:  # Django's fields are slow to hash
                last, members = fields, groups.setdefault(fields, [])
            members.append(obj)
        return sum(
            # Without a surrounding transaction, objects may come from another database than the record's.
            len(members) - write(members[0]._state.db or db_alias, members, fields)
            for fields, members in groups.items()
        )

    def flush_singly(
        self, db_alias: str, goes_on: Callable[[list[tuple[Model, Exception]]], bool]
    ) -> tuple[int, list[tuple[Model, Exception]]]:
        """Write them one by one, as long as `goes_on` with those that could not be written.

        Return how many had vanished, and those.
        """
        vanished = 0
        bad: list[tuple[Model, Exception]] = []
        for obj, fields in self._changed:
            try:
                with transaction.atomic(using=db_alias):
                    vanished += 1 - write(db_alias, [obj], fields)
                    connections[db_alias].check_constraints()
            except DatabaseError as error:
                if is_transient(error):
                    raise
                bad.append((obj, error))
                if not goes_on(bad):
                    break
        return vanished, bad


class Changes:
    """The declared `update_fields` of a model."""

    def __init__(self, model: type[Model], names: Sequence[str], *, name: str) -> None:
        self._fields = tuple(writable(model, field_name, name=name) for field_name in names)
        self._attnames = [field.attname for field in self._fields]
        self._missing = [_MISSING] * len(self._fields)
        self._relations = [field for field in self._fields if field.is_relation]
        # auto_now and the like set themselves when a row is saved.
        self._self_setting = [field for field in self._fields if type(field).pre_save is not Field.pre_save]

    def operate(self, obj: Model, operation: Callable[[Any], None], writes: Writes) -> None:
        """Run `operation` on an object and add what it changed to `writes`."""
        loaded = obj.__dict__
        before = [*map(loaded.get, self._attnames, self._missing)]
        kinds = [*map(type, before)]
        is_plain = _IMMUTABLE.issuperset(kinds)
        if not is_plain:
            before = [_kept(value) for value in before]
        operation(obj)
        if self._relations and obj._state.fields_cache:
            # As save() does: one that was assigned before it was saved has its key only now, or must not be lost.
            obj._prepare_related_fields_for_save(operation_name="save", fields=self._relations)  # type: ignore[attr-defined]
        after = [*map(loaded.get, self._attnames, self._missing)]
        # The usual cases first: this is done for every row.
        if is_plain and after == before and kinds == [*map(type, after)]:
            return
        is_whole = len(before) == 1 and after != before
        changed = self._fields if is_whole else self._differing(before, after)
        if changed and self._self_setting:
            for field in self._self_setting:
                field.pre_save(obj, add=False)
            changed = self._differing(before, [*map(loaded.get, self._attnames, self._missing)])
        if changed:
            writes.add(obj, changed)

    def _differing(self, before: list[Any], after: list[Any]) -> Fields:
        return tuple(
            field
            for field, new, old in zip(self._fields, after, before, strict=True)
            if new is not old and _differ(new, old)
        )


def _kept(value: Any) -> Any:
    """A copy of what an operation could change in place, such as the value of a JSON field."""
    return value if type(value) in _IMMUTABLE else copy.deepcopy(value)


def _differ(value: Any, before: Any) -> bool:
    if value != before:
        return True
    if type(value) is type(before) and type(value) in _IMMUTABLE:
        return False
    # Equal is not the same for all: True == 1 and [1] == [1.0], which differ in JSON.
    # But what equals a text or None, such as a file that was looked at, is written as they are.
    is_plain = before is None or isinstance(before, str)
    return not is_plain and repr(value) != repr(before)
