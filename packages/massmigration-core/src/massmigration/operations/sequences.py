"""Moves the sequence of a primary key beyond the keys that were copied."""

from __future__ import annotations

from django.db import connections
from django.db.models import AutoField, Model
from django.db.models.fields import AutoFieldMixin

from massmigration.operations.namespaces import Place, qualified


def catch_up(model: type[Model], place: Place) -> None:
    """Never back: others may be inserting. SQLite, MariaDB and MySQL do it by themselves."""
    connection, key = connections[place.db_alias], model._meta.pk
    if connection.vendor != "postgresql" or not isinstance(key, (AutoField, AutoFieldMixin)):
        return
    table, column = qualified(place, model), connection.ops.quote_name(str(key.column))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", [table, key.column])
        (sequence,) = cursor.fetchone() or (None,)
        if sequence is not None:
            cursor.execute(
                f"SELECT setval(%s::regclass, top) FROM (SELECT max({column}) AS top FROM {table}) AS keys "
                "WHERE top > coalesce(pg_sequence_last_value(%s::regclass), 0)",
                [sequence, sequence],
            )
