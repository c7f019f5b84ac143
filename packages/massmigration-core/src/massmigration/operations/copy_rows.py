"""Copies of rows: the target place and its columns, INSERT ... SELECT, inserts through Python, and sequences."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.db import connections, transaction
from django.db.models import AutoField, DateField, F, Field, Model, QuerySet, TimeField, UniqueConstraint, Value
from django.db.models.fields import NOT_PROVIDED, AutoFieldMixin
from django.utils import timezone

from massmigration.dialects import dialect_of
from massmigration.dialects.base import RowCopy, unqualified_name
from massmigration.operations.context import OperationContext
from massmigration.operations.validation import check_expression, check_same_type, check_value, find_field, is_inherited
from massmigration.paging.keyset import Keyset
from massmigration.paging.querysets import all_rows, can_lock_directly, hold


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A database, or a schema of one, that rows are copied to."""

    db_alias: str
    schema: str | None = None
    """Another schema on the same server (default: the connection's own)."""

    def __str__(self) -> str:
        return f"on database {self.db_alias!r}" if self.schema is None else f"in schema {self.schema!r}"


def alias_of(namespace: str) -> str | None:
    """Return the database alias that has this name or this `NAMESPACE`, or None."""
    if namespace in connections:
        return namespace
    return next((each for each in connections if connections[each].settings_dict.get("NAMESPACE") == namespace), None)


def find_place(namespace: str, db_alias: str) -> Place | str:
    """Return the place with this name, as seen from `db_alias`, or a sentence that says why there is none."""
    alias = alias_of(namespace)
    if alias is not None:
        return Place(db_alias=alias)
    dialect = dialect_of(db_alias)
    aliases = ", ".join(map(repr, connections))
    if dialect.has_schemas:
        if dialect.has_schema(namespace):
            return Place(db_alias=db_alias, schema=namespace)
        return f"{namespace!r} is neither a database alias ({aliases}) nor a schema of database {db_alias!r}."
    if dialect.has_schemas is False:
        return f"{namespace!r} is not a database alias ({aliases}), and SQLite has no schemas."
    lacks = "" if _has_gcloudc() else " gcloudc, Django's database backend for Datastore, is not installed."
    return (
        f"{namespace!r} is not a database alias ({aliases}). Add an alias with the NAMESPACE {namespace!r} to "
        f"DATABASES.{lacks}"
    )


def qualified(place: Place, model: type[Model]) -> str:
    """Return the quoted name of the model's table in the place."""
    quote = connections[place.db_alias].ops.quote_name
    if place.schema is None:
        return quote(model._meta.db_table)
    return f"{quote(place.schema)}.{quote(unqualified(model))}"


def unqualified(model: type[Model]) -> str:
    """Return the name of the model's table without the schema of a db_table such as `"schema"."table"`."""
    return unqualified_name(model._meta.db_table)


def has_table(place: Place, model: type[Model]) -> bool:
    """Return whether the model's table exists in the place. On Datastore, a kind exists once it has an entity."""
    dialect = dialect_of(place.db_alias)
    if place.schema is None:
        return dialect.has_table(model._meta.db_table)
    return dialect.has_table_in_schema(place.schema, unqualified(model))


def _has_gcloudc() -> bool:
    return importlib.util.find_spec("gcloudc") is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the target and the origin of its values."""

    field: Field[Any, Any]
    source: Any = None
    """An expression over the source model."""

    call: Callable[[], Any] | None = None
    """A function that is called for each row instead."""

    @property
    def is_called(self) -> bool:
        return self.call is not None


def columns_of(
    context: OperationContext,
    source: type[Model],
    target: type[Model],
    names: Sequence[str] | None,
    mapping: Mapping[str, Any] | None,
) -> list[Column]:
    """Return the columns that are written; the database fills the others.

    Raise `BadMigrationFile` if a column has no value.
    """
    for model in (source, target):
        if any(is_inherited(model, field) for field in model._meta.concrete_fields):
            raise context.error(
                f"the rows of {model._meta.label} are in several tables, because it inherits from another model. Copy "
                "each table separately, with models that have all of their columns in one table."
            )
    if names is not None and (isinstance(names, str) or not isinstance(names, Sequence)):
        raise context.error(f"fields = {names!r} must be a list of field names.")
    if mapping is not None and not isinstance(mapping, Mapping):
        raise context.error(f"map = {mapping!r} must be a dict whose keys are names of the target's fields.")
    given = {find_field(context, target, name).name: value for name, value in (mapping or {}).items()}
    copied = _copied(context, source, target, names, given)
    columns = []
    for field in target._meta.concrete_fields:
        if getattr(field, "generated", False) or field.column is None:
            continue
        if field.name in given:
            columns.append(_mapped(context, source, field, given[field.name]))
        elif field.name in copied:
            check_same_type(context, copied[field.name], field)
            columns.append(Column(field=field, source=F(copied[field.name].attname)))
        else:
            columns += _filled(context, field)
    return columns


def _copied(
    context: OperationContext,
    source: type[Model],
    target: type[Model],
    names: Sequence[str] | None,
    given: Mapping[str, Any],
) -> dict[str, Field[Any, Any]]:
    """Return the source's fields that are copied without conversion, by the names of the target's fields."""
    key, target_key = source._meta.pk, target._meta.pk
    assert key is not None
    assert target_key is not None
    if names is None:
        if source._meta.many_to_many:
            relations = ", ".join(field.name for field in source._meta.many_to_many)
            raise context.error(
                f"{source._meta.label} has many-to-many relations ({relations}), which are stored in separate tables. "
                "List the fields to copy in fields=, and copy each relation's 'through' model separately."
            )
        used = {value for value in given.values() if isinstance(value, str)}
        fields = [each for each in source._meta.concrete_fields if not getattr(each, "generated", False)]
        fields = [each for each in fields if each.name not in used and each.column is not None]
    else:
        fields = [find_field(context, source, name) for name in names]
    parts = getattr(source._meta, "pk_fields", None) or [key]
    found = {field.name: field for field in fields if field is not key}
    if len(parts) == 1 and target_key.column is not None:
        found[target_key.name] = key  # the names of the keys may differ
    else:
        found |= {part.name: part for part in parts}
    known = {field.name for field in target._meta.concrete_fields}
    lacking = [name for name in found if name not in known]
    if lacking:
        raise context.error(
            f"{target._meta.label} has no {', '.join(map(repr, lacking))}, but {source._meta.label} has. List the "
            "fields to copy in fields=, or pass map={'to_field': 'from_field'} for fields with another name."
        )
    return found


def _mapped(context: OperationContext, source: type[Model], field: Field[Any, Any], value: Any) -> Column:
    if field.primary_key:
        raise context.error(f"map names {field.name!r}, the primary key, which is always copied. Remove it.")
    if isinstance(value, str):
        found = find_field(context, source, value)
        check_same_type(context, found, field)
        return Column(field=field, source=F(found.attname))
    if hasattr(value, "resolve_expression"):
        check_expression(context, source, value, may_join=True)
        return Column(field=field, source=value)
    check_value(context, field, value)
    return Column(field=field, source=Value(value, output_field=field))


def _filled(context: OperationContext, field: Field[Any, Any]) -> list[Column]:
    """Return the column if it has a default or sets itself, and no column if the database fills it."""
    if callable(field.default) and field.default is not NOT_PROVIDED:
        return [Column(field=field, call=field.get_default)]
    if field.has_default():
        return [Column(field=field, source=Value(field.get_default(), output_field=field))]
    if isinstance(field, (DateField, TimeField)) and (
        getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    ):
        return [Column(field=field, call=lambda: field.to_python(timezone.now()))]
    if field.null or getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED:
        return []
    raise context.error(
        f"{field.model._meta.label}.{field.name} is NOT NULL, has no default, and nothing is copied to it. Pass its "
        "value in map=: an expression, such as Value(...), or the name of a field."
    )


def advance_sequence(model: type[Model], place: Place) -> None:
    """Move the sequence of the model's key past the largest key, if the database does not do this itself."""
    key = model._meta.pk
    if isinstance(key, (AutoField, AutoFieldMixin)):
        dialect_of(place.db_alias).advance_sequence(qualified(place, model), str(key.column))


class Insertion:
    """A copy of rows into one table.

    `overwrite`: overwrite rows whose key exists (default: skip them). `holds`: lock the copied rows until the
    transaction ends, so that they cannot be edited meanwhile.
    """

    def __init__(
        self, target: type[Model], place: Place, columns: Sequence[Column], *, overwrite: bool, holds: bool
    ) -> None:
        self._target = target
        self._place = place
        self._columns = columns
        self._overwrite = overwrite
        self._holds = holds
        key = target._meta.pk
        self._key_fields = list(getattr(target._meta, "pk_fields", None) or [key])

    def insert(self, queryset: QuerySet[Any], db_alias: str) -> None:
        """Copy the queryset's rows."""
        if self._place.db_alias == db_alias and not any(column.is_called for column in self._columns):
            self._by_statement(queryset, db_alias)
            return
        if self._holds:
            hold(queryset)
        self._by_objects(queryset)

    def _selected(self, queryset: QuerySet[Any], columns: Sequence[Column]) -> tuple[QuerySet[Any], list[str]]:
        names = [f"copied_{index}" for index in range(len(columns))]
        sources = {name: column.source for name, column in zip(names, columns, strict=True)}
        return queryset.order_by().annotate(**sources).values_list(*names), names

    def _by_statement(self, queryset: QuerySet[Any], db_alias: str) -> None:
        """Copy the rows with INSERT ... SELECT."""
        dialect, quote = dialect_of(db_alias), connections[db_alias].ops.quote_name
        rows, names = self._selected(queryset, self._columns)
        select, params = rows.query.get_compiler(db_alias).as_sql()
        has_other_unique = self._has_other_unique()
        is_one_statement = dialect.copies_in_one_statement(has_other_unique=has_other_unique)
        if self._holds and can_lock_directly(rows) and is_one_statement:
            # In the same statement, the lock makes it a sixth slower on PostgreSQL and no slower on MariaDB.
            select += dialect.shared_lock_clause
        elif self._holds:
            hold(queryset)
        copy = RowCopy(
            table=qualified(self._place, self._target),
            columns={
                quote(str(column.field.column)): quote(name) for column, name in zip(self._columns, names, strict=True)
            },
            keys=[quote(str(field.column)) for field in self._key_fields],
            select=select,
            overwrite=self._overwrite,
            has_other_unique=has_other_unique,
        )
        for statement in dialect.copy_statements(copy):
            dialect.execute(statement, params)

    def _has_other_unique(self) -> bool:
        meta = self._target._meta
        return (
            any(field.unique and not field.primary_key for field in meta.local_concrete_fields)
            or bool(meta.unique_together)
            or any(isinstance(constraint, UniqueConstraint) for constraint in meta.constraints)
        )

    def _by_objects(self, queryset: QuerySet[Any]) -> None:
        """Copy the rows through Python. This can be repeated: rows that it has inserted are not inserted again."""
        computed = [column for column in self._columns if not column.is_called]
        if all(type(column.source) is F for column in computed):  # Datastore can read fields, but not expressions
            rows = queryset.values_list(*(column.source.name for column in computed))
        else:
            rows, _ = self._selected(queryset, computed)
        objects = [self._object(computed, row) for row in rows]
        alias = self._place.db_alias
        keyset = Keyset.of(self._target)
        with transaction.atomic(using=alias):
            base = all_rows(self._target, alias)
            existing = set(keyset.rows(base.filter(keyset.among([keyset.key_of(obj) for obj in objects]))))
            fields = [column.field for column in self._columns]
            self._write_new([obj for obj in objects if keyset.key_of(obj) not in existing], fields)
            if self._overwrite:
                old = [obj for obj in objects if keyset.key_of(obj) in existing]
                others = [field for field in fields if field not in self._key_fields]
                if old and others:
                    dialect_of(alias).write(old, others)

    def _object(self, computed: Sequence[Column], row: Sequence[Any]) -> Model:
        values = {column.field.attname: value for column, value in zip(computed, row, strict=True)}
        values |= {column.field.attname: column.call() for column in self._columns if column.call is not None}
        return self._target(**values)

    def _write_new(self, objects: list[Model], fields: list[Any]) -> None:
        """Insert the objects without signals, and without fields such as `auto_now` setting their values."""
        connection = connections[self._place.db_alias]
        size = max(connection.ops.bulk_batch_size(fields, objects), 1) if objects else 1
        target: Any = all_rows(self._target, connection.alias)
        for start in range(0, len(objects), min(size, 2000)):
            some = objects[start : start + min(size, 2000)]
            target._insert(some, fields=fields, using=connection.alias, raw=True)
