"""Makes objects of the rows of a batch, for models that Django makes in no special way.

Django takes 2.4 us to make an object of a row that it has read, mostly in `Model.__init__`, which knows nothing of
where its values come from; this takes 0.7 us (SQLite, three columns). The objects and the SQL are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from django.db.models import Model, QuerySet
from django.db.models.base import ModelState
from django.db.models.fields.files import FileDescriptor, ImageFileDescriptor
from django.db.models.fields.related_descriptors import ForeignKeyDeferredAttribute
from django.db.models.query import ModelIterable
from django.db.models.query_utils import DeferredAttribute
from django.db.models.signals import post_init, pre_init

from massmigration.stores import is_of_documents

_MAKING = ("__new__", "__init__", "__setattr__", "__getattribute__", "from_db")
_FETCHING = ("__iter__", "_fetch_all")

# Setting a value that was loaded does nothing but keep it. Of other descriptors, who knows.
_KEEPING = frozenset({DeferredAttribute, ForeignKeyDeferredAttribute, FileDescriptor, ImageFileDescriptor})


class PlainIterable(ModelIterable):  # type: ignore[type-arg]
    """What `ModelIterable` yields, where nothing of the model or the queryset asks for more than values and state."""

    def __iter__(self) -> Iterator[Any]:
        queryset = self.queryset
        model, db_alias = queryset.model, queryset.db
        compiler = queryset.query.get_compiler(using=db_alias)
        results = compiler.execute_sql(chunked_fetch=self.chunked_fetch, chunk_size=self.chunk_size)
        names = [compiler.select[place][0].target.attname for place in compiler.klass_info["select_fields"]]
        state_of = {"adding": False, "db": db_alias}
        if hasattr(queryset, "_fetch_mode"):  # since Django 6.1
            state_of["fetch_mode"] = queryset._fetch_mode
        make = model.__new__
        for row in compiler.results_iter(results):
            obj = make(model)
            state = ModelState()
            state.__dict__.update(state_of)
            values = obj.__dict__
            values["_state"] = state
            values.update(zip(names, row))  # noqa: B905  columns that only sort come after the model's
            yield obj


def loaded_plainly(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """`queryset`, which loads its objects as fast as its model allows."""
    if not (_is_plain_queryset(queryset) and _is_plain_model(queryset.model)):
        return queryset
    plain = queryset.all()
    plain._iterable_class = PlainIterable
    return plain


def _is_plain_queryset(queryset: QuerySet[Any]) -> bool:
    """Whether its objects get nothing but the columns of their own table."""
    query: Any = queryset.query
    given: Any = queryset
    fetches = getattr(getattr(given, "_fetch_mode", None), "track_peers", False)
    return (
        given._iterable_class is ModelIterable
        and not (query.select_related or query.annotations or query.extra or fetches)
        and not (given._prefetch_related_lookups or given._known_related_objects)
        and all(getattr(type(given), name) is getattr(QuerySet, name) for name in _FETCHING)
        and not is_of_documents(queryset.db)
    )


def _is_plain_model(model: type[Model]) -> bool:
    """Whether making an object of it is nothing but keeping its values."""
    own = [part for part in model.__mro__ if part not in (Model, object)]
    return (
        not model._meta.parents
        and not any(name in vars(part) for part in own for name in _MAKING)
        and all(type(inspect.getattr_static(model, field.attname)) in _KEEPING for field in model._meta.concrete_fields)
        and not (pre_init.has_listeners(model) or post_init.has_listeners(model))
    )
