"""Makes a migration's queryset fit to be worked through in batches, or says why it is not."""

from __future__ import annotations

import logging
from typing import Any

from django.db import connections
from django.db.models import Manager, QuerySet
from django.db.models.query import ModelIterable

from massmigration.exceptions import BadQuerySet
from massmigration.keyset import Keyset

logger = logging.getLogger(__name__)


def prepare(
    queryset: Any, db_alias: str, *, name: str, may_leave: bool = False, is_quiet: bool = False
) -> QuerySet[Any]:
    """`queryset` on `db_alias`, without an ordering.

    `name` is the migration's, for messages. `may_leave` allows a queryset on another database, as
    operations without a surrounding transaction may have; `is_quiet` logs nothing. Raise `BadQuerySet`, with the
    reason.
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
            f"get_queryset() of migration {name!r} returned a queryset on database {chosen!r} when asked for "
            f"{db_alias!r}. Use .using(db_alias), or set atomic = False: rows and bookkeeping then do not commit "
            "together."
        )
    if (queryset.query.order_by or queryset.query.extra_order_by) and not is_quiet:
        logger.warning("The ordering of the queryset of migration %s is dropped: batches go by their keys.", name)
    unordered: QuerySet[Any] = queryset.order_by()
    unordered.query.standard_ordering = True  # after reverse(), every ordering would be turned round
    unordered.query.select_for_update = False  # the engine locks what it reads, and skips no row that is locked
    return unordered


def _refusal(queryset: QuerySet[Any]) -> str | None:
    query = queryset.query
    if query.is_sliced:
        return "a sliced queryset, which cannot be paged. Filter it instead of slicing it."
    if query.combinator:
        return f"a {query.combinator} of querysets, which cannot be paged. Filter with Q objects instead."
    if not issubclass(queryset._iterable_class, ModelIterable):
        return "values() or values_list(), but operations are given objects. Use only() to fetch fewer columns."
    if _has_window(queryset):
        return (
            "window functions, which would count anew in each batch. Put them into a subquery: "
            "filter(pk__in=<this queryset>.values('pk')), or annotate with a Subquery."
        )
    if query.distinct_fields:
        return "distinct() with fields, which decides by its ordering what to leave out. Use distinct() without fields."
    return None


def _has_window(queryset: QuerySet[Any]) -> bool:
    query: Any = queryset.query
    return query.where.contains_over_clause or any(
        getattr(annotation, "contains_over_clause", False) for annotation in query.annotations.values()
    )


def is_joined(queryset: QuerySet[Any]) -> bool:
    """Whether it reaches into other tables, or makes rows of one, so that an object may be in it more than once."""
    query: Any = queryset.query
    if query.extra_tables or any(getattr(each, "set_returning", False) for each in query.annotations.values()):
        return True
    joins = (alias for alias, table in query.alias_map.items() if getattr(table, "join_type", None))
    return any(query.alias_refcount[alias] for alias in joins)  # one that Django found it can do without has none


def can_lock_directly(queryset: QuerySet[Any]) -> bool:
    """Whether `select_for_update()` on this very queryset locks its own rows, all of them, and no others."""
    query = queryset.query
    if query.distinct or query.group_by is not None or query.is_sliced or query.combinator:
        return False
    if is_joined(queryset):
        return False
    return not query.select_related or bool(connections[queryset.db].features.has_select_for_update_of)


def lock(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """Lock the queryset's own rows, an inherited model's with those of its parents."""
    features = connections[queryset.db].features
    if not features.has_select_for_update:
        return queryset
    of = ("self", *_parent_links(queryset.model)) if features.has_select_for_update_of else ()
    # Others may go on to refer to the rows by foreign keys, where the engine can tell that lock apart.
    return queryset.select_for_update(of=of, no_key=features.has_select_for_no_key_update)


def hold(queryset: QuerySet[Any]) -> None:
    """Lock a queryset's own rows until the transaction ends: what is then read of them stays true so long."""
    model = queryset.model
    if not connections[queryset.db].features.has_select_for_update:
        return
    if not can_lock_directly(queryset):
        queryset = model._base_manager.using(queryset.db).filter(pk__in=queryset.order_by().values("pk"))
    keyset = Keyset.of(model)
    rows = queryset.order_by(*keyset.fields)
    # Django locks no table of which nothing is selected, such as a parent's when only keys are.
    list(lock(rows if model._meta.parents else keyset.rows(rows)))


def _parent_links(model: Any) -> list[str]:
    links = []
    for parent, field in model._meta.parents.items():
        if field is not None:
            links += [field.name, *(f"{field.name}__{link}" for link in _parent_links(parent))]
    return links
