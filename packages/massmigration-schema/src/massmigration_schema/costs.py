"""The cost of each operation of a schema migration if the table were altered directly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import Field

from massmigration_schema.derivation import Derivation
from massmigration_schema.states import without_children


class Cost(IntEnum):
    """The effect of a statement on a large table, from the cheapest to the most expensive."""

    INSTANT = 0
    IN_PLACE = 1
    BLOCKS = 2
    COPY = 3

    @property
    def meaning(self) -> str:
        """What the cost means for those who use the table."""
        return {
            Cost.INSTANT: "instant: changes the catalog only",
            Cost.IN_PLACE: "in place: reads the table, but does not block its writers",
            Cost.BLOCKS: "blocks: reads the table, and blocks its writers meanwhile",
            Cost.COPY: "copies: rewrites the table, and blocks its writers meanwhile",
        }[self]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperationCost:
    """The cost of one operation."""

    description: str
    cost: Cost
    statements: Sequence[str] = ()
    """The statements that were tried, if the cost was found by trying."""


def is_online(costs: Sequence[OperationCost]) -> bool:
    """Return whether the table can be altered directly without blocking its writers for long."""
    return all(each.cost <= Cost.IN_PLACE for each in costs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """An operation, with the states of the project before and after it."""

    operation: Operation
    before: ProjectState
    after: ProjectState

    def fields(self, state: ProjectState, app_label: str, model_name: str) -> dict[str, Field[Any, Any]]:
        """Return the fields of the model in one of the states."""
        model = state.apps.get_model(app_label, model_name)
        return {field.name: field for field in model._meta.local_fields}


def steps(derivation: Derivation, state: ProjectState | None = None) -> Iterator[Step]:
    """Yield the operations of a migration, beginning with another state, or with that of no children."""
    before = state or without_children(derivation.before, derivation.app_label, derivation.model_name)
    for operation in derivation.operations:
        after = before.clone()
        operation.state_forwards(derivation.app_label, after)
        yield Step(operation=operation, before=before, after=after)
        before = after
