"""Makes a model of a table with a column that the project's own model no longer has."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.apps.registry import Apps
from django.db.models import Field, ForeignKey, Model, TextField


@cache
def with_column(model: type[Model], column: str) -> tuple[type[Model], Field[Any, Any]]:
    """A model with the primary key of `model` and this column alone, and the column's field.

    It is in no registry but its own: neither migrations nor relations see it.
    """
    meta = {"app_label": model._meta.app_label, "db_table": model._meta.db_table, "apps": Apps(), "managed": False}
    body: dict[str, Any] = {"__module__": __name__, "Meta": type("Meta", (), meta)}
    parts = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    for index, part in enumerate(parts):
        body[f"key_{index}"] = _key(part, is_whole=len(parts) == 1)
    if len(parts) > 1:
        from django.db.models import CompositePrimaryKey  # of Django 5.2, as such keys are

        body["pk"] = CompositePrimaryKey(*(f"key_{index}" for index in range(len(parts))))
    body["vanished"] = TextField(null=True, db_column=column)
    ghost: Any = type(model.__name__, (Model,), body)
    return ghost, ghost._meta.get_field("vanished")


def _key(part: Any, *, is_whole: bool) -> Field[Any, Any]:
    """A field with the values of a key's, and without its relations."""
    end = part
    while isinstance(end, ForeignKey):
        end = end.target_field
    key: Field[Any, Any] = end.clone()
    key.db_column = part.column
    key.primary_key = is_whole
    key._unique = False  # type: ignore[attr-defined]
    return key
