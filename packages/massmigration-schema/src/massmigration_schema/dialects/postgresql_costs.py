"""The cost of operations on PostgreSQL, by rules: PostgreSQL cannot be asked for it."""

from __future__ import annotations

from typing import Any

from django.db import connections, migrations
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import AutoField, DecimalField, Field, Value

from massmigration_schema.conversions import (
    has_db_default,
    has_fixed_value,
    has_index,
    is_check_same,
    is_longer_text,
    keeps_type,
    widens,
)
from massmigration_schema.costs import Cost, OperationCost, Step, steps
from massmigration_schema.derivation import Derivation

CHEAP = (
    migrations.AlterModelManagers,
    migrations.AlterModelOptions,
    migrations.AlterModelTableComment,
    migrations.RemoveConstraint,
    migrations.RemoveField,
    migrations.RemoveIndex,
    migrations.RenameField,
    migrations.RenameIndex,
)


def costs_on_postgresql(derivation: Derivation, db_alias: str) -> list[OperationCost]:
    """Return the cost of each operation."""
    return [
        OperationCost(description=step.operation.describe(), cost=_cost(step, derivation, connections[db_alias]))
        for step in steps(derivation)
    ]


def _cost(step: Step, derivation: Derivation, connection: BaseDatabaseWrapper) -> Cost:
    operation: Any = step.operation
    if isinstance(operation, CHEAP):
        return Cost.INSTANT
    old, new = (
        step.fields(state, derivation.app_label, derivation.model_name).get(getattr(operation, "name", ""))
        for state in (step.before, step.after)
    )
    if isinstance(operation, migrations.AddField) and new is not None:
        return _cost_of_new(new)
    if isinstance(operation, migrations.AlterField) and old is not None and new is not None:
        return _cost_of_altered(old, new, connection)
    return Cost.BLOCKS  # a new index or constraint


def _cost_of_new(new: Field[Any, Any]) -> Cost:
    if getattr(new, "generated", False):
        return Cost.COPY if getattr(new, "db_persist", True) else Cost.INSTANT
    if isinstance(new, AutoField):
        return Cost.COPY
    if has_db_default(new) and not isinstance(new._db_default_expression, Value):  # type: ignore[attr-defined]
        return Cost.COPY
    is_plain = not has_index(new) and not _has_constraint(new)
    return Cost.INSTANT if is_plain else Cost.BLOCKS


def _cost_of_altered(old: Field[Any, Any], new: Field[Any, Any], connection: BaseDatabaseWrapper) -> Cost:
    if old.null and not new.null and has_fixed_value(new):
        return Cost.COPY  # Django fills the rows with one UPDATE
    if not keeps_type(old, new, connection) and not _changes_type_at_once(old, new):
        return Cost.COPY
    gains = (
        (old.null and not new.null)
        or (has_index(new) and not has_index(old))
        or (new.unique and not old.unique)
        or (_has_constraint(new) and not _has_constraint(old))
        or not is_check_same(old, new, connection)
    )
    return Cost.BLOCKS if gains else Cost.INSTANT


def _changes_type_at_once(old: Field[Any, Any], new: Field[Any, Any]) -> bool:
    """Return whether the server changes the type without reading a row."""
    if isinstance(old, DecimalField) and isinstance(new, DecimalField):
        return old.decimal_places == new.decimal_places and widens(old, new)
    if not is_longer_text(old, new):
        return False
    # An index for LIKE is made again for another type.
    return old.get_internal_type() == new.get_internal_type() or not has_index(old)


def _has_constraint(field: Field[Any, Any]) -> bool:
    return field.remote_field is not None and bool(getattr(field, "db_constraint", False))
