"""Finds what else happens when a migration's rows are written: triggers, and receivers of signals."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.models import Model
from django.db.models.signals import post_save, pre_save

from massmigration.definitions.stages import MappedStage

_TRIGGERS = {
    "postgresql": "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND NOT tgisinternal ORDER BY 1",
    "mysql": (
        "SELECT trigger_name FROM information_schema.triggers "
        "WHERE event_object_schema = DATABASE() AND event_object_table = %s ORDER BY 1"
    ),
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = %s ORDER BY 1",
}


def triggers(model: type[Model], db_alias: str) -> list[str]:
    """The names of the triggers on the model's table; none where the engine cannot be asked."""
    connection = connections[db_alias]
    query = _TRIGGERS.get(connection.vendor)
    if query is None:
        return []
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(query, [connection.ops.quote_name(table) if connection.vendor == "postgresql" else table])
        return [name for (name,) in cursor.fetchall()]


def signals_sent(stage: MappedStage, model: Any) -> list[str]:
    """The signals with receivers that are sent for each object, because the operation saves it itself."""
    if stage.operation is None or stage.update_fields is not None:
        return []
    return [name for name, signal in (("pre_save", pre_save), ("post_save", post_save)) if signal.has_listeners(model)]
