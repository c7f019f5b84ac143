"""Values of new columns that no operation gives, as expressions over the old model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.core.exceptions import FieldError
from django.db import connections
from django.db.models import Aggregate, Model, Subquery, Window
from django.db.models.expressions import RawSQL, ResolvedOuterRef
from django.db.models.functions import Now, Random
from django.db.models.sql import Query

from massmigration.paging.querysets import all_rows
from massmigration_schema.exceptions import Refused

ROW = "mm_row"
"""Stands for the row while an expression is compiled."""

BATCH = 500
"""Rows that are written by one statement."""

FORBIDDEN: tuple[tuple[tuple[Any, ...], str], ...] = (
    ((Aggregate, Window), "uses other rows"),
    ((Query, Subquery, ResolvedOuterRef), "has a subquery"),
    ((Now, Random), "has another value each time"),
    ((RawSQL,), "has raw SQL, in which a trigger cannot name the row"),
)


def compiled(
    name: str, expression: Any, model: type[Model], db_alias: str, quoted: Callable[[Any], str]
) -> tuple[str, Refused | None]:
    """Return an expression as SQL in which `%(row)s` stands for the alias of the row and a period, or the refusal.

    `quoted`: returns a parameter as SQL, because a trigger has no parameters.
    """
    query = Query(model)
    try:
        resolved = expression.resolve_expression(query, allow_joins=False)
    except FieldError as error:
        return "", _refused(name, f"cannot be computed from one row of {model._meta.label}: {error}.")
    for node in _nodes(resolved):
        for classes, reason in FORBIDDEN:
            if isinstance(node, classes) or (getattr(node, "contains_aggregate", False) and Aggregate in classes):
                return "", _refused(name, f"{reason} ({type(node).__name__}).")
    alias = str(query.get_initial_alias())
    sql, params = query.get_compiler(using=db_alias).compile(resolved.relabeled_clone({alias: ROW}))
    row = f"{connections[db_alias].ops.quote_name(ROW)}."
    # The answer is a format itself, so that each percent sign in it is doubled.
    template = sql.replace("%%", "%%%%").replace(row, "%%(row)s")
    return str(template % tuple(quoted(param).replace("%", "%%") for param in params)), None


def _refused(name: str, problem: str) -> Refused:
    return Refused(
        "online.transform",
        f"The transform of {name!r} {problem} A trigger computes it from the columns of the row that is written. "
        "Allowed: expressions over fields of the old model itself, and values.",
    )


def _nodes(node: Any) -> Iterator[Any]:
    """Yield an expression and everything in it."""
    yield node
    children = getattr(node, "children", None)
    if children is None:
        children = node.get_source_expressions() if hasattr(node, "get_source_expressions") else ()
    for child in children:
        if child is not None:
            yield from _nodes(child)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Values:
    """The values of transforms for the rows of a table that is altered directly."""

    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @classmethod
    def of(cls, model: type[Model], transforms: Mapping[str, Any], db_alias: str) -> Values:
        """Compute the values, before the operations change the columns."""
        names = tuple(transforms)
        computed = {f"{ROW}_{number}": transforms[name] for number, name in enumerate(names)}
        rows = all_rows(model, db_alias).annotate(**computed).values_list("pk", *computed)
        return cls(names=names, rows=list(rows))

    def write(self, model: type[Model], db_alias: str) -> None:
        """Write them to the altered table."""
        fields = [model._meta.get_field(name) for name in self.names]
        objects = []
        for key, *values in self.rows:
            found = model(pk=key)
            for field, value in zip(fields, values, strict=True):
                setattr(found, field.attname, value)  # type: ignore[union-attr]  # of a column
            objects.append(found)
        all_rows(model, db_alias).bulk_update(objects, self.names, batch_size=BATCH)
        connection = connections[db_alias]
        if connection.features.can_defer_constraint_checks:
            connection.check_constraints()  # PostgreSQL does not alter a table whose checks are pending
