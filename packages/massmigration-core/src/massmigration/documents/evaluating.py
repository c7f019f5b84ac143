"""Evaluates Django's conditions and expressions on objects that have been read."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from django.db import NotSupportedError
from django.db.models import Aggregate, Count, Max, Min, Sum, Value
from django.db.models.expressions import Col, CombinedExpression, Expression
from django.db.models.fields.related_lookups import RelatedLookupMixin
from django.db.models.functions import Coalesce
from django.db.models.lookups import Lookup
from django.db.models.sql.where import AND, OR, NothingNode, WhereNode
from django.utils import timezone

from massmigration.clock import DatabaseNow

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "exact": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, found: value in list(found),
    "contains": lambda value, part: part in value,
    "startswith": str.startswith,
}
_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def matches(node: Any, row: Any) -> bool:
    """Whether a row meets a queryset's condition."""
    if isinstance(node, NothingNode):
        return False
    if isinstance(node, WhereNode):
        found = [matches(child, row) for child in node.children]
        if node.connector not in (AND, OR):
            raise _unsupported(node)
        return (all(found) if node.connector == AND or not found else any(found)) is not node.negated
    if not isinstance(node, Lookup):
        raise _unsupported(node)
    return _compared(node, row)


def _compared(lookup: Lookup[Any], row: Any) -> bool:
    value, other = evaluate(lookup.lhs, [row]), lookup.rhs
    if lookup.lookup_name == "isnull":
        return (value is None) is bool(other)
    if isinstance(other, Expression):
        other = evaluate(other, [row])
    elif isinstance(lookup, RelatedLookupMixin) and lookup.lookup_name == "in":
        other = [getattr(each, "pk", each) for each in other]
    if value is None or other is None or lookup.lookup_name not in _COMPARISONS:
        if lookup.lookup_name not in _COMPARISONS:
            raise _unsupported(lookup)
        return False
    return bool(_COMPARISONS[lookup.lookup_name](value, other))


def evaluate(expression: Any, rows: Sequence[Any]) -> Any:
    """The value of a resolved expression: of an aggregate on all the rows, of anything else on the first."""
    if isinstance(expression, Aggregate):
        return _aggregated(expression, rows)
    if isinstance(expression, Col):
        return getattr(rows[0], expression.target.attname)
    if isinstance(expression, DatabaseNow):
        # There is no other clock: those of workers have to agree to within a fraction of a lease.
        return timezone.now() + expression.offset
    if isinstance(expression, Value):
        return expression.value
    if isinstance(expression, Coalesce):
        found = (evaluate(each, rows) for each in expression.get_source_expressions())
        return next((value for value in found if value is not None), None)
    if isinstance(expression, CombinedExpression) and expression.connector in _ARITHMETIC:
        left, right = evaluate(expression.lhs, rows), evaluate(expression.rhs, rows)
        return None if left is None or right is None else _ARITHMETIC[expression.connector](left, right)
    if isinstance(expression, Expression):  # ExpressionWrapper and the like
        inner = [each for each in expression.get_source_expressions() if each is not None]
        if len(inner) == 1 and type(expression).__name__ == "ExpressionWrapper":
            return evaluate(inner[0], rows)
    raise _unsupported(expression)


def _aggregated(aggregate: Aggregate, rows: Sequence[Any]) -> Any:
    condition = aggregate.filter
    condition = getattr(condition, "condition", condition)  # wrapped since Django 6
    chosen = [row for row in rows if condition is None or matches(condition, row)]
    source = aggregate.get_source_expressions()[0]
    found = [value for value in (evaluate(source, [row]) for row in chosen) if value is not None]
    if isinstance(aggregate, Count):
        return len(found)
    for kind, function in ((Sum, sum), (Max, max), (Min, min)):
        if isinstance(aggregate, kind):
            return function(found) if found else None
    raise _unsupported(aggregate)


def _unsupported(what: Any) -> NotSupportedError:
    return NotSupportedError(f"Records on Datastore and Firestore cannot be asked for {what!r}.")
