"""`BatchWriter`, the part of a dialect that writes changed rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    AutoField,
    BigAutoField,
    BigIntegerField,
    Case,
    CharField,
    EmailField,
    Field,
    IntegerField,
    Model,
    QuerySet,
    SlugField,
    TextField,
    URLField,
    Value,
    When,
)
from django.db.models.functions import Cast

Fields: TypeAlias = "Sequence[Field[Any, Any]]"

Row = tuple[Any, ...]
"""The values of the written columns, followed by the primary key."""

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})

# Values of these types need no conversion: Django's own fields hand them to the driver unchanged.
_TEXT: frozenset[type] = frozenset({str, type(None)})
_NUMBER: frozenset[type] = frozenset({int, type(None)})
_UNCONVERTED: dict[type, frozenset[type]] = {
    **dict.fromkeys((CharField, TextField, SlugField, EmailField, URLField), _TEXT),
    **dict.fromkeys((AutoField, BigAutoField, IntegerField, BigIntegerField), _NUMBER),
}


class BatchWriter:
    """A writer of the changed rows of a batch on one database. `Dialect` inherits from this class.

    A dialect overrides `can_write_in_bulk` and `update_statement`. By default, rows are written as Django's
    `bulk_update` writes them: by an UPDATE with CASE expressions.
    """

    max_statement_rows = 5000
    max_statement_bytes = 4_000_000
    """Limits of one statement that writes a batch."""

    max_cases = 500
    """The maximum number of rows in one UPDATE with a CASE. Its cost grows faster than the number of rows."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self.db_alias: str = connection.alias

    def write(self, objects: Sequence[Model], fields: Fields) -> int:
        """Write `fields` of `objects`, all of one model. Return how many rows still existed.

        No signal is sent and no other column is touched. A row that has vanished is not inserted again.
        """
        matched = len(objects)
        # An inherited model has its fields in the tables of its parents.
        for model in dict.fromkeys(field.model._meta.concrete_model for field in fields):
            own = [field for field in fields if field.model._meta.concrete_model is model]
            matched = min(matched, self.write_table(model, objects, own))
        return matched

    def write_table(self, model: Any, objects: Sequence[Model], fields: Fields) -> int:
        """Write fields that are columns of the model's own table. Return how many rows still existed."""
        pk = model._meta.pk
        columns = [[getattr(obj, field.attname) for obj in objects] for field in fields]
        special = {index for column in columns for index, value in enumerate(column) if _is_expression(value)}
        matched = sum(self.write_row(model, objects[index], fields) for index in special)
        if special:
            objects = [obj for index, obj in enumerate(objects) if index not in special]
            columns = [[value for index, value in enumerate(column) if index not in special] for column in columns]
        columns.append([getattr(obj, pk.attname) for obj in objects])
        all_fields = [*fields, pk]
        statement = self._update_by_cases
        if self.can_write_in_bulk(all_fields):
            statement = self.update_statement
            columns = [self._prepared(field, column) for field, column in zip(all_fields, columns, strict=True)]
        rows = list(zip(*columns, strict=True))
        return matched + sum(statement(model, fields, part) for part in self._parts(rows))

    def write_row(self, model: Any, obj: Model, fields: Fields) -> int:
        """Write one row, whose values may be expressions such as `F("stock") - 1`."""
        values = {field.name: getattr(obj, field.attname) for field in fields}
        return int(self.all_rows(model).filter(pk=getattr(obj, model._meta.pk.attname)).update(**values))

    def can_write_in_bulk(self, fields: Fields) -> bool:
        """Return whether `update_statement` takes values of these fields. The last one is the primary key."""
        return False

    def update_statement(self, model: Any, fields: Fields, rows: Sequence[Row]) -> int:
        """Write rows by one statement. Return how many still existed."""
        raise NotImplementedError

    def are_plain(self, fields: Fields) -> bool:
        """Return whether each field is one column, whose values need no SQL around their placeholder."""
        return not any(
            hasattr(field, "get_placeholder") or hasattr(field, "get_placeholder_sql") or field.column is None
            for field in fields
        )

    def names(self, model: Any, fields: Fields) -> tuple[str, str, list[str]]:
        """Return the quoted names of the model's table, of its primary key, and of the fields' columns."""
        quote = self.connection.ops.quote_name
        return quote(model._meta.db_table), quote(model._meta.pk.column), [quote(str(field.column)) for field in fields]

    def all_rows(self, model: type[Model]) -> QuerySet[Any]:
        """Return every row of the model's table, whatever its managers leave out."""
        return QuerySet(model=model, using=self.db_alias)

    def _prepared(self, field: Field[Any, Any], values: list[Any]) -> list[Any]:
        """Return the values as the driver takes them."""
        if type(field) in _UNCONVERTED and {type(value) for value in values} <= _UNCONVERTED[type(field)]:
            return values
        return [field.get_db_prep_save(value, self.connection) for value in values]

    def _parts(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """Split rows by the limits of one statement."""
        limit = self.max_statement_rows
        if len(rows) > 1 and (len(rows) > limit or _size(rows) > self.max_statement_bytes):
            middle = limit if len(rows) > limit else len(rows) // 2
            yield from self._parts(rows[:middle])
            yield from self._parts(rows[middle:])
        elif rows:
            yield rows

    def _update_by_cases(self, model: Any, fields: Fields, rows: Sequence[Row]) -> int:
        """Write rows of unconverted values, as Django's `bulk_update` does."""
        pk = model._meta.pk
        size = min(self.connection.ops.bulk_batch_size([pk, pk, *fields], list(rows)), self.max_cases)
        matched = 0
        for start in range(0, len(rows), size):
            some = [row for row in rows[start : start + size] if row[-1] is not None]
            if not some:
                continue
            updates: dict[str, Any] = {}
            for index, field in enumerate(fields):
                whens = [When(pk=row[-1], then=Value(row[index], output_field=field)) for row in some]
                case = Case(*whens, output_field=field)
                is_cast = self.connection.features.requires_casted_case_in_updates
                updates[field.attname] = Cast(case, output_field=field) if is_cast else case
            among = self.all_rows(model).filter(pk__in=[row[-1] for row in some])
            matched += among.update(**updates)
        return matched


def _is_expression(value: Any) -> bool:
    return type(value) not in _PLAIN and hasattr(value, "resolve_expression")


def _size(rows: Sequence[Row]) -> int:
    return sum(len(value) for column in zip(*rows, strict=True) for value in column if isinstance(value, (str, bytes)))
