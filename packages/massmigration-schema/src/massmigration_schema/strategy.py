"""The choice between altering a table directly and copying it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.migrations.state import ProjectState

from massmigration_schema.costs import OperationCost, is_online
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.registry import SchemaDialect
from massmigration_schema.options import Online


def are_small(operations: Sequence[Any], state: ProjectState, app_label: str, catalog: Any, rows: int) -> bool:
    """Return whether every table that the operations change has at most this many rows."""
    names = {str(getattr(each, "model_name", None) or getattr(each, "name", "")).lower() for each in operations}
    models = [state.apps.get_model(app_label, name) for name in names if (app_label, name) in state.models]
    return all(catalog.has_at_most(model._meta.db_table, rows) for model in models)


def is_direct(
    derivation: Derivation, online: Online, dialect: SchemaDialect, db_alias: str
) -> tuple[bool, list[OperationCost]]:
    """Return whether a large table is altered directly, and the costs on which the answer depends."""
    if online.strategy == "direct":
        return True, []
    if derivation.plan is None:
        return False, []
    found = dialect.costs(derivation, db_alias)
    return online.strategy == "auto" and is_online(found) and not online.transforms, found
