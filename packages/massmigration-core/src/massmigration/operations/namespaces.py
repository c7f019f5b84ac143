"""Finds the place that a namespace means: a database alias, a schema, or a namespace of Google's Datastore."""

from __future__ import annotations

import dataclasses
import importlib.util

from django.db import connections
from django.db.models import Model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where rows are copied to."""

    db_alias: str
    schema: str | None = None
    """Another schema, on the same server; None: the connection's own."""

    def __str__(self) -> str:
        return f"on database {self.db_alias!r}" if self.schema is None else f"in schema {self.schema!r}"


def alias_of(namespace: str) -> str | None:
    """The database alias of this name, or the one whose `NAMESPACE` it is."""
    if namespace in connections:
        return namespace
    return next((each for each in connections if connections[each].settings_dict.get("NAMESPACE") == namespace), None)


def find(namespace: str, db_alias: str) -> Place | str:
    """The place, as seen from `db_alias`; or what is wrong, as a sentence."""
    alias = alias_of(namespace)
    if alias is not None:
        return Place(db_alias=alias)
    connection = connections[db_alias]
    aliases = ", ".join(map(repr, connections))
    if connection.vendor in ("postgresql", "mysql"):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", [namespace])
            if cursor.fetchone():
                return Place(db_alias=db_alias, schema=namespace)
        return f"{namespace!r} is neither a database alias ({aliases}) nor a schema that database {db_alias!r} shows."
    if connection.vendor == "sqlite":
        return f"{namespace!r} is no database alias ({aliases}), and SQLite has no schemas."
    lacks = "" if _has_gcloudc() else " gcloudc, Django's way to the Datastore, is not installed."
    return (
        f"{namespace!r} is no database alias ({aliases}). Add one to DATABASES whose NAMESPACE is {namespace!r}.{lacks}"
    )


def qualified(place: Place, model: type[Model]) -> str:
    """The model's table there, quoted."""
    quote = connections[place.db_alias].ops.quote_name
    table = quote(model._meta.db_table)
    return table if place.schema is None else f"{quote(place.schema)}.{table}"


def has_table(place: Place, model: type[Model]) -> bool:
    """Whether the model's table is there. On the Datastore, a kind comes with its first entity."""
    connection, table = connections[place.db_alias], model._meta.db_table
    if connection.settings_dict["ENGINE"].startswith("gcloudc."):
        return True
    with connection.cursor() as cursor:
        if place.schema is None:
            return table in connection.introspection.table_names(cursor)
        cursor.execute(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = %s",
            [place.schema, table],
        )
        return cursor.fetchone() is not None


def _has_gcloudc() -> bool:
    return importlib.util.find_spec("gcloudc") is not None
