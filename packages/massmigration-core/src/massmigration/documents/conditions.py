"""Conditions on a document database: those that the database evaluates, and those tested in Python.

The database finds objects by equality. When objects are read in the order of their keys, it compares nothing else. An
entity that was saved before its model had a field is in no index of that field, not even as an entity without a value.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import NotSupportedError, connections
from django.db.models import Aggregate, Count, Max, Min, Model, QuerySet, Sum, Value
from django.db.models.expressions import Col, CombinedExpression, Expression
from django.db.models.fields.related_lookups import RelatedLookupMixin
from django.db.models.functions import Coalesce
from django.db.models.lookups import Exact, In, Lookup
from django.db.models.sql.where import AND, OR, NothingNode, WhereNode

from massmigration.dialects import is_document_database
from massmigration.dialects.times import DatabaseNow
from massmigration.documents import clock
from massmigration.exceptions import BadQuerySet
from massmigration.paging.keyset import Keyset

_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "exact": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, found: value in list(found),
    "contains": lambda value, part: part in value,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "iexact": lambda value, other: str(value).casefold() == str(other).casefold(),
    "icontains": lambda value, part: str(part).casefold() in str(value).casefold(),
    "istartswith": lambda value, part: str(value).casefold().startswith(str(part).casefold()),
    "iendswith": lambda value, part: str(value).casefold().endswith(str(part).casefold()),
    "range": lambda value, bounds: bounds[0] <= value <= bounds[1],
}
_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def matches(node: Any, row: Any) -> bool:
    """Return whether a row meets a queryset's condition. Raise `NotSupportedError` if Python cannot tell."""
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
    """Return the value of a resolved expression: an aggregate over all rows, anything else over the first row."""
    if isinstance(expression, Aggregate):
        return _aggregated(expression, rows)
    if isinstance(expression, Col):
        if isinstance(rows[0], Model) and not isinstance(rows[0], expression.target.model):
            raise _unsupported(expression)  # a column of another model
        return getattr(rows[0], expression.target.attname)
    if isinstance(expression, DatabaseNow):
        return clock.now(rows[0]._state.db) + expression.offset
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
    return NotSupportedError(f"Queries of Datastore and Firestore do not support {what!r}.")


PAGE = 500
"""The number of objects that are read at once, to be counted."""

_TEXTS = frozenset({"text", "bytes"})
"""Column types without an index."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrowing:
    """A queryset, divided into what the database evaluates and what Python tests."""

    found: QuerySet[Any]
    """The queryset with the conditions that the database evaluates."""

    bare: QuerySet[Any]
    """The queryset with only the conditions that Python cannot test, for objects with known keys."""

    tested: Sequence[Any]
    """The conditions that Python can test."""

    is_complete: bool
    """Whether the database evaluates all conditions."""

    def fits(self, obj: Model) -> bool:
        """Return whether an object that was read meets the conditions that Python can test."""
        return all(matches(condition, obj) for condition in self.tested)


def narrow(queryset: QuerySet[Any]) -> Narrowing | None:
    """Return the parts of a queryset. None: it is not on a document database."""
    if not is_document_database(queryset.db):
        return None
    where: Any = queryset.query.where
    conditions = where.children if where.connector == AND and not where.negated else [where]
    tested = [each for each in conditions if _can_be_tested(each, queryset)]
    found = [each for each in conditions if each not in tested or _is_found(each, queryset)]
    return Narrowing(
        found=_with(queryset, found),
        bare=_with(queryset, [each for each in conditions if each not in tested]),
        tested=tested,
        is_complete=len(found) == len(conditions),
    )


def count(queryset: QuerySet[Any], limit: int | None = None) -> int:
    """Return the number of objects in a queryset, up to `limit`, if they must be read to be counted."""
    parts = narrow(queryset)
    if parts is None or parts.is_complete:
        bounded = queryset.order_by() if limit is None else queryset.order_by()[:limit]
        return bounded.count()
    total = 0
    for obj in _all(parts.found):
        total += parts.fits(obj)
        if total == limit:
            break
    return total


def check(queryset: QuerySet[Any], *, name: str) -> None:
    """Raise `BadQuerySet` for conditions on the fields of other models, if the database has no joins."""
    if is_document_database(queryset.db) and any(_columns_elsewhere(queryset.query.where, queryset.model)):
        raise BadQuerySet(
            f"The queryset of migration {name!r} has a condition on the field of another model, but database "
            f"{queryset.db!r} does not support joins. Filter by fields of {queryset.model._meta.label}, or test the "
            "object in the operation."
        )


def _all(queryset: QuerySet[Any]) -> Iterator[Any]:
    """Read a queryset page by page: gcloudc keeps the whole answer to a query in memory."""
    keyset, after = Keyset.of(queryset.model), None
    while page := list(keyset.page(queryset, after, None)[:PAGE]):
        yield from page
        after = keyset.encoded_key_of(page[-1])


def _with(queryset: QuerySet[Any], conditions: Sequence[Any]) -> QuerySet[Any]:
    queryset = queryset.all()
    queryset.query.where = WhereNode(list(conditions), AND)
    return queryset


def _is_found(condition: Any, queryset: QuerySet[Any]) -> bool:
    if isinstance(condition, NothingNode):
        return True
    if not isinstance(condition, (Exact, In)) or hasattr(condition.rhs, "resolve_expression"):
        return False
    field = getattr(condition.lhs, "target", None)
    return field is not None and field.db_type(connections[queryset.db]) not in _TEXTS


def _can_be_tested(condition: Any, queryset: QuerySet[Any]) -> bool:
    blank = queryset.model()
    blank._state.db = queryset.db
    try:
        matches(condition, blank)
    except NotSupportedError:
        return False
    return True


def _columns_elsewhere(node: Any, model: type[Model]) -> Iterator[Any]:
    for child in node.children:
        if isinstance(child, WhereNode):
            yield from _columns_elsewhere(child, model)
        elif isinstance(child, Lookup):
            field = getattr(child.lhs, "target", None)
            if field is not None and not issubclass(model, field.model):
                yield field
