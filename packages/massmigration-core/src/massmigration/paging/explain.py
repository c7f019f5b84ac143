"""The query plan of a stage's batches."""

from __future__ import annotations

import dataclasses
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet

from massmigration.conf import settings
from massmigration.dialects import dialect_of
from massmigration.dialects.base import Access
from massmigration.paging.keyset import Keyset, encode_key


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueryPlan:
    """The query of a batch that begins after the first row, and how it would be read."""

    sql: str
    access: Access
    indexes: tuple[str, ...] = ()


def explain(queryset: QuerySet[Any], keyset: Keyset) -> QueryPlan:
    """Return the plan of a queryset that `querysets.prepare` returned, and that is read in the order of `keyset`."""
    first = keyset.rows(keyset.page(queryset, None, None)).first()
    after = None if first is None else encode_key(first)
    batch = keyset.page(queryset, after, None)[: settings.BATCH_SIZE]
    try:
        sql, params = batch.query.get_compiler(queryset.db).as_sql()
        sql = sql % params
    except EmptyResultSet:
        sql = ""
    if first is None:
        return QueryPlan(sql=sql, access=Access.EMPTY)
    access, indexes = dialect_of(queryset.db).explain_access(batch)
    return QueryPlan(sql=sql, access=access, indexes=indexes)
