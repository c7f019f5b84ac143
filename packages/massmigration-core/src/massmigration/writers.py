"""Writes a batch's changed values in one statement, as each engine does it fastest.

Measured for 2000 rows and one column, as a ratio to one raw UPDATE of the same rows: PostgreSQL unnest 2.3,
MariaDB join on VALUES 2.7, SQLite executemany 5.3; `bulk_update` 15 to 77.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    AutoField,
    BigAutoField,
    BigIntegerField,
    CharField,
    EmailField,
    Field,
    IntegerField,
    Model,
    SlugField,
    TextField,
    URLField,
)

from massmigration.stores import is_of_documents

Row = tuple[Any, ...]
"""The values of the columns written, then the primary key's."""

MAX_ROWS = 5000
MAX_BYTES = 4_000_000
"""Limits of one statement; MariaDB refuses packets of more than 16 MiB by default."""

BULK_UPDATE_ROWS = 500
"""Of one statement of Django's `bulk_update`, whose conditions cost more the more there are."""

# What is left of a column's type after its length. A cast to varchar(10) would cut values short in silence.
_POSTGRESQL_TYPES = frozenset(
    (
        *("smallint", "integer", "bigint", "numeric", "real", "double precision", "boolean"),
        *("text", "varchar", "citext", "bytea", "uuid", "jsonb", "inet"),
        *("date", "time", "time without time zone", "interval"),
        *("timestamp with time zone", "timestamp without time zone"),
    )
)


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})

# What Django's own fields hand to the driver unchanged, when it is of the field's own type already.
_TEXT: frozenset[type] = frozenset({str, type(None)})
_NUMBER: frozenset[type] = frozenset({int, type(None)})
_AS_THEY_ARE: dict[type, frozenset[type]] = {
    **dict.fromkeys((CharField, TextField, SlugField, EmailField, URLField), _TEXT),
    **dict.fromkeys((AutoField, BigAutoField, IntegerField, BigIntegerField), _NUMBER),
}


def write(db_alias: str, objects: Sequence[Model], fields: Sequence[Field[Any, Any]]) -> int:
    """Write `fields` of `objects`, all of one model. Return how many were still there.

    No signals are sent and no other column is touched; a row that has vanished is not inserted again.
    """
    connection = connections[db_alias]
    matched = len(objects)
    # An inherited model's fields live in its parents' tables.
    for model in dict.fromkeys(field.model._meta.concrete_model for field in fields):
        own = [field for field in fields if field.model._meta.concrete_model is model]
        matched = min(matched, _write_table(connection, model, objects, own))
    return matched


def _write_table(
    connection: BaseDatabaseWrapper, model: Any, objects: Sequence[Model], fields: Sequence[Field[Any, Any]]
) -> int:
    if is_of_documents(connection.alias):
        return sum(_write_special(connection, model, obj, fields) for obj in objects)
    pk = model._meta.pk
    statement = _STATEMENTS.get(_flavour(connection))
    if statement is None or not _is_plain(connection, [*fields, pk]):
        return _write_otherwise(connection, model, objects, fields)
    columns = [[getattr(obj, field.attname) for obj in objects] for field in fields]
    special = {index for column in columns for index, value in enumerate(column) if _is_expression(value)}
    matched = sum(_write_special(connection, model, objects[index], fields) for index in special)
    if special:
        objects = [obj for index, obj in enumerate(objects) if index not in special]
        columns = [[value for index, value in enumerate(column) if index not in special] for column in columns]
    columns.append([getattr(obj, pk.attname) for obj in objects])
    prepared = [_prepared(connection, field, column) for field, column in zip((*fields, pk), columns, strict=True)]
    rows = list(zip(*prepared, strict=True))
    return matched + sum(statement(connection, model, fields, part) for part in _parts(rows))


def _write_otherwise(
    connection: BaseDatabaseWrapper, model: Any, objects: Sequence[Model], fields: Sequence[Field[Any, Any]]
) -> int:
    """By Django's `bulk_update`, within the limits of one statement too."""
    rows = [tuple(getattr(obj, field.attname) for field in fields) for obj in objects]
    matched = start = 0
    for part in _parts(rows):
        some = _as(model, objects[start : start + len(part)])
        names = [field.name for field in fields]
        matched += _base(model, connection).bulk_update(some, names, batch_size=BULK_UPDATE_ROWS)
        start += len(part)
    return matched


def _is_expression(value: Any) -> bool:
    return type(value) not in _PLAIN and hasattr(value, "resolve_expression")


def _write_special(connection: BaseDatabaseWrapper, model: Any, obj: Model, fields: Sequence[Field[Any, Any]]) -> int:
    """One row, to which the operation may have assigned an expression, such as `F("stock") - 1`."""
    values = {field.name: getattr(obj, field.attname) for field in fields}
    return int(_base(model, connection).filter(pk=getattr(obj, model._meta.pk.attname)).update(**values))


def _prepared(connection: BaseDatabaseWrapper, field: Field[Any, Any], values: list[Any]) -> list[Any]:
    """The values as the driver takes them."""
    if type(field) in _AS_THEY_ARE and {type(value) for value in values} <= _AS_THEY_ARE[type(field)]:
        return values
    return [field.get_db_prep_save(value, connection) for value in values]


def _flavour(connection: BaseDatabaseWrapper) -> str:
    return "mariadb" if getattr(connection, "mysql_is_mariadb", False) else connection.vendor


def _base(model: Any, connection: BaseDatabaseWrapper) -> Any:
    return model._base_manager.using(connection.alias)


def _as(model: Any, objects: Sequence[Model]) -> Sequence[Model]:
    """Inherited objects as their parent `model`, whose table is to be written."""
    if isinstance(objects[0], model) and type(objects[0])._meta.concrete_model is model:
        return objects
    names = [field.attname for field in model._meta.concrete_fields]
    return [model(**{name: obj.__dict__[name] for name in names if name in obj.__dict__}) for obj in objects]


def _is_plain(connection: BaseDatabaseWrapper, fields: Sequence[Field[Any, Any]]) -> bool:
    """Whether values of these fields can stand in the statements below as they are."""
    for field in fields:
        # Arrays, geometries and the like wrap their placeholder in SQL of their own. A composite key has no column.
        if hasattr(field, "get_placeholder") or hasattr(field, "get_placeholder_sql") or field.column is None:
            return False
        if connection.vendor == "postgresql" and _postgresql_type(field, connection) not in _POSTGRESQL_TYPES:
            return False
    # MariaDB compares a string key with a derived table's column by their collations, which may not mix.
    key_type = fields[-1].rel_db_type(connection) or ""
    return not (connection.vendor == "mysql" and ("char" in key_type or "text" in key_type))


def _postgresql_type(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> str:
    return re.sub(r"\(.*?\)", "", field.rel_db_type(connection) or "").strip()


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Runs of rows within the limits of one statement."""
    if len(rows) > 1 and (len(rows) > MAX_ROWS or _size(rows) > MAX_BYTES):
        middle = MAX_ROWS if len(rows) > MAX_ROWS else len(rows) // 2
        yield from _parts(rows[:middle])
        yield from _parts(rows[middle:])
    elif rows:
        yield rows


def _size(rows: Sequence[Row]) -> int:
    return sum(len(value) for column in zip(*rows, strict=True) for value in column if isinstance(value, (str, bytes)))


def _names(
    connection: BaseDatabaseWrapper, model: Any, fields: Sequence[Field[Any, Any]]
) -> tuple[str, str, list[str]]:
    quote = connection.ops.quote_name
    return quote(model._meta.db_table), quote(model._meta.pk.column), [quote(str(field.column)) for field in fields]


def _postgresql(
    connection: BaseDatabaseWrapper, model: Any, fields: Sequence[Field[Any, Any]], rows: Sequence[Row]
) -> int:
    table, pk, columns = _names(connection, model, fields)
    types = [_postgresql_type(field, connection) for field in (*fields, model._meta.pk)]
    aliases = [f"c{index}" for index in range(len(fields))]
    sql = (
        f"UPDATE {table} SET {', '.join(f'{name} = v.{new}' for name, new in zip(columns, aliases, strict=True))} "
        f"FROM unnest({', '.join(f'%s::{kind}[]' for kind in types)}) AS v({', '.join(aliases)}, pk) "
        f"WHERE {table}.{pk} = v.pk"
    )
    values = list(zip(*rows, strict=True))
    bounds = _bounds(values[-1])
    if bounds:
        sql += f" AND {table}.{pk} BETWEEN %s AND %s"
    with connection.cursor() as cursor:
        cursor.execute(sql, [*map(_array, values), *bounds])
        return int(cursor.rowcount)


def _bounds(keys: Row) -> Row:
    """The least and the greatest key, of types that Python and PostgreSQL order alike.

    Not the first and the last: a second parent's keys come in any order.
    """
    return (min(keys), max(keys)) if set(map(type, keys)) in ({int}, {uuid.UUID}) else ()


def _array(values: Row) -> list[Any] | str:
    """An array as PostgreSQL reads it, for plain numbers and texts: the driver takes 1.5 us to quote one value."""
    kinds = set(map(type, values))
    if kinds == {int}:
        return "{" + ",".join(map(str, values)) + "}"
    text = "\x00".join(values) if kinds == {str} else ""
    if not text or text.count("\x00") != len(values) - 1:
        return list(values)
    return '{"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\x00", '","') + '"}'


def _mariadb(
    connection: BaseDatabaseWrapper, model: Any, fields: Sequence[Field[Any, Any]], rows: Sequence[Row]
) -> int:
    table, pk, columns = _names(connection, model, fields)
    aliases = [f"c{index}" for index in range(len(fields))]
    row = f"({', '.join(['%s'] * (len(fields) + 1))})"
    sql = (
        f"UPDATE {table} JOIN (WITH v({', '.join(aliases)}, pk) AS (VALUES {', '.join([row] * len(rows))}) "
        f"SELECT * FROM v) v ON {table}.{pk} = v.pk "
        f"SET {', '.join(f'{table}.{name} = v.{new}' for name, new in zip(columns, aliases, strict=True))}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [value for row in rows for value in row])
        return int(cursor.rowcount)


def _sqlite(connection: BaseDatabaseWrapper, model: Any, fields: Sequence[Field[Any, Any]], rows: Sequence[Row]) -> int:
    table, pk, columns = _names(connection, model, fields)
    sql = f"UPDATE {table} SET {', '.join(f'{name} = %s' for name in columns)} WHERE {pk} = %s"
    with connection.cursor() as cursor:
        cursor.executemany(sql, rows)
        return int(cursor.rowcount)


_STATEMENTS = {"postgresql": _postgresql, "mariadb": _mariadb, "sqlite": _sqlite}
