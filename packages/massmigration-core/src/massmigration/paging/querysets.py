"""The preparation of a migration's queryset for batches, and the locks of its rows."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db import connections
from django.db.models import Manager, Model, QuerySet
from django.db.models.expressions import Col, RawSQL
from django.db.models.query import ModelIterable
from django.db.models.sql import Query
from django.db.models.sql.where import ExtraWhere

from massmigration.dialects import dialect_of
from massmigration.exceptions import BadQuerySet
from massmigration.paging.keyset import Key, Keyset

logger = logging.getLogger(__name__)


def all_rows(model: type[Model], db_alias: str) -> QuerySet[Any]:
    """Return every row of the model's table, whatever its managers leave out, including the base manager."""
    return QuerySet(model=model, using=db_alias)


def prepare(
    queryset: Any, db_alias: str, *, name: str, may_leave: bool = False, is_quiet: bool = False
) -> QuerySet[Any]:
    """Return `queryset` on `db_alias`, without an ordering. Raise `BadQuerySet` if it cannot be read in batches.

    `name`: the migration's name, for messages.
    `may_leave`: allow a queryset on another database, for a stage without a transaction around each batch.
    `is_quiet`: do not log that an ordering is dropped.
    """
    if isinstance(queryset, Manager):
        queryset = queryset.all()
    if not isinstance(queryset, QuerySet):
        raise BadQuerySet(
            f"get_queryset() of migration {name!r} returned {type(queryset).__name__}; it must return a QuerySet."
        )
    refusal = _refusal(queryset)
    if refusal:
        raise BadQuerySet(f"get_queryset() of migration {name!r} returned {refusal}")
    chosen = vars(queryset)["_db"]  # `.db` asks the routers when nothing was chosen
    if chosen is None:
        queryset = queryset.using(db_alias)
    elif chosen != db_alias and not may_leave:
        raise BadQuerySet(
            f"get_queryset({db_alias!r}) of migration {name!r} returned a queryset on database {chosen!r}. Use "
            ".using(db_alias). If the rows must be on another database, set atomic = False: rows and progress are then "
            "not committed together."
        )
    if (queryset.query.order_by or queryset.query.extra_order_by) and not is_quiet:
        logger.warning(
            "Dropped the ordering of the queryset of migration %s: batches are read in the order of their keys.", name
        )
    unordered: QuerySet[Any] = queryset.order_by()
    unordered.query.standard_ordering = True  # after reverse(), every ordering would be reversed
    unordered.query.select_for_update = False  # the engine locks the rows itself, and skips none
    return unordered


def _refusal(queryset: QuerySet[Any]) -> str | None:
    query = queryset.query
    if query.is_sliced:
        return "a sliced queryset, which cannot be paged. Filter it instead of slicing it."
    if query.combinator:
        return f"a {query.combinator} of querysets, which cannot be paged. Filter with Q objects instead."
    if not issubclass(queryset._iterable_class, ModelIterable):
        return "values() or values_list(), but operations need objects. Use only() to fetch fewer columns."
    if _has_window(queryset):
        return (
            "window functions, which would be computed separately for each batch. Put them into a subquery: "
            "filter(pk__in=<this queryset>.values('pk')), or annotate with a Subquery."
        )
    if query.distinct_fields:
        return "distinct() with fields, which depends on an ordering. Use distinct() without fields."
    return None


def _has_window(queryset: QuerySet[Any]) -> bool:
    query: Any = queryset.query
    return query.where.contains_over_clause or any(
        getattr(annotation, "contains_over_clause", False) for annotation in query.annotations.values()
    )


def is_joined(queryset: QuerySet[Any]) -> bool:
    """Return whether an object may be in the queryset more than once, because of a join or a set-returning function."""
    query: Any = queryset.query
    if query.extra_tables or any(getattr(each, "set_returning", False) for each in query.annotations.values()):
        return True
    joins = (alias for alias, table in query.alias_map.items() if getattr(table, "join_type", None))
    return any(query.alias_refcount[alias] for alias in joins)  # a join that Django found unnecessary has a count of 0


def can_lock_directly(queryset: QuerySet[Any]) -> bool:
    """Return whether `select_for_update()` on this queryset locks exactly its own rows."""
    query = queryset.query
    if query.distinct or query.group_by is not None or query.is_sliced or query.combinator:
        return False
    if is_joined(queryset):
        return False
    if not query.select_related:
        return True
    # PostgreSQL refuses a table with a schema in FOR UPDATE OF.
    models: Any = (queryset.model, *queryset.model._meta.get_parent_list())
    is_qualified = any('"."' in model._meta.db_table for model in models)
    return bool(connections[queryset.db].features.has_select_for_update_of) and not is_qualified


def lock(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """Return `queryset` so that it locks its own rows, and the rows of parent models."""
    features = connections[queryset.db].features
    if not features.has_select_for_update:
        return queryset
    # Without select_related(), the rows of parents are the only other rows.
    names_tables = features.has_select_for_update_of and queryset.query.select_related
    of = ("self", *_parent_links(queryset.model)) if names_tables else ()
    # Other transactions can still insert foreign keys to the rows, where the database has a lock for that.
    return queryset.select_for_update(of=of, no_key=features.has_select_for_no_key_update)


def hold(queryset: QuerySet[Any]) -> list[Key] | None:
    """Lock a queryset's own rows until the transaction ends, and return their keys.

    None: the database has no row locks.
    """
    model = queryset.model
    if not connections[queryset.db].features.has_select_for_update:
        return None
    if not can_lock_directly(queryset):
        queryset = all_rows(model, queryset.db).filter(pk__in=queryset.order_by().values("pk"))
    keyset = Keyset.of(model)
    rows = queryset.order_by(*keyset.fields)
    # Django does not lock a table without selected columns, such as a parent's if only keys are selected.
    if model._meta.parents:
        return keyset.keys_of(list(lock(rows)))
    return list(lock(keyset.rows(rows)))


def _parent_links(model: Any) -> list[str]:
    links = []
    for parent, field in model._meta.parents.items():
        if field is not None:
            links += [field.name, *(f"{field.name}__{link}" for link in _parent_links(parent))]
    return links


def where_sql(
    queryset: QuerySet[Any], alias: str | None = None, columns: Mapping[str, str] | None = None
) -> tuple[str, tuple[Any, ...]]:
    """Return the WHERE of a queryset as SQL with its parameters, for a statement of one's own over the same rows.

    The queryset that `operation_batch` gets may be a range of keys, a list of keys or a single object; this works with
    all of them. `alias`: the name of the table in the statement (default: the table's own). `columns`: names in the
    statement of columns that have other names there, by the columns' names in the model. An empty string means that
    there is no condition. Raise `BadQuerySet` for a queryset of more than one table, and on a document database.
    """
    if not dialect_of(queryset.db).has_sql:
        raise BadQuerySet(f"where_sql() needs an SQL database; {queryset.db!r} is a document database.")
    query: Any = queryset.query.chain()
    table = query.get_initial_alias()
    compiler = query.get_compiler(using=queryset.db)
    compiler.setup_query()
    if is_joined(queryset) or [name for name, count in query.alias_refcount.items() if count and name != table]:
        raise BadQuerySet("where_sql() needs a queryset of one table; this one has a join or a parent model.")
    where = _renamed(query.where, table, alias or table, columns or {})
    try:
        sql, params = compiler.compile(where) if where.children else ("", ())
    except FullResultSet:
        return "", ()
    except EmptyResultSet:
        return "1 = 0", ()
    return sql, tuple(params)


def _renamed(node: Any, table: str, alias: str, columns: Mapping[str, str]) -> Any:
    """Return a copy of a condition that names `alias` instead of `table`, and the new columns."""
    if isinstance(node, Col):
        field: Any = copy.copy(node.target)
        field.column = columns.get(field.column, field.column)
        return Col(alias, field, node.output_field) if node.alias == table else node
    if isinstance(node, (RawSQL, ExtraWhere)):
        raise BadQuerySet("where_sql() cannot rename the columns of raw SQL. Use a condition without it.")
    if isinstance(node, Query):
        raise BadQuerySet("where_sql() cannot rename the columns of a subquery. Use a condition without one.")
    if not hasattr(node, "get_source_expressions"):
        return node
    found = copy.copy(node)
    if hasattr(found, "children"):
        found.children = [_renamed(child, table, alias, columns) for child in node.children]
    else:
        sources = node.get_source_expressions()
        found.set_source_expressions([source and _renamed(source, table, alias, columns) for source in sources])
    return found
