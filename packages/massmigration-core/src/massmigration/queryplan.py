"""Asks the database how it would read a stage's batches, and says it in few words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from enum import Enum
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import QuerySet

from massmigration import keys
from massmigration.conf import settings
from massmigration.keyset import Keyset


class Access(Enum):
    """How the rows of a batch are found."""

    SEEK = "an index leads to the cursor, and is walked from there"
    SCAN = "every row of the table is read for each batch"
    SORT = "every row that matches is sorted for each batch"
    EMPTY = "there is no row"
    UNKNOWN = "the database does not say"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueryPlan:
    """The query of a batch that begins behind the first row, and how it would be read."""

    sql: str
    access: Access
    indexes: tuple[str, ...] = ()


def explain(queryset: QuerySet[Any]) -> QueryPlan:
    """That of a queryset that `querysets.prepare` returned."""
    keyset = Keyset.of(queryset.model)
    first = keyset.rows(keyset.page(queryset, None, None)).first()
    after = None if first is None else keys.encode(first)
    batch = keyset.page(queryset, after, None)[: settings.BATCH_SIZE]
    try:
        sql, params = batch.query.get_compiler(queryset.db).as_sql()
        sql = sql % params
    except EmptyResultSet:
        sql = ""
    if first is None:
        return QueryPlan(sql=sql, access=Access.EMPTY)
    vendor = connections[queryset.db].vendor
    if vendor == "sqlite":
        return _of_sqlite(sql, batch.explain())
    if vendor in ("postgresql", "mysql"):
        told = _json(batch.explain(format="json"))
        return (_of_postgresql if vendor == "postgresql" else _of_mysql)(sql, list(_nodes(told)))
    return QueryPlan(sql=sql, access=Access.UNKNOWN)


def _json(told: str) -> Any:
    # Django 5.2 and later write what the driver returns as JSON: a driver that returns text has it written twice.
    found = json.loads(told)
    return json.loads(found) if isinstance(found, str) else found


def _of_sqlite(sql: str, told: str) -> QueryPlan:
    found = [line.split("USING ", 1)[1].split(" (")[0] for line in told.splitlines() if "USING " in line]
    indexes = tuple(name.removeprefix("COVERING ").removeprefix("INDEX ") for name in found if "B-TREE" not in name)
    if "USE TEMP B-TREE FOR ORDER BY" in told:
        return QueryPlan(sql=sql, access=Access.SORT, indexes=indexes)
    return QueryPlan(sql=sql, access=Access.SCAN if "SCAN" in told else Access.SEEK, indexes=indexes)


def _of_postgresql(sql: str, nodes: list[dict[str, Any]]) -> QueryPlan:
    kinds = {node.get("Node Type", "") for node in nodes}
    indexes = tuple(dict.fromkeys(node["Index Name"] for node in nodes if "Index Name" in node))
    if "Seq Scan" in kinds:
        return QueryPlan(sql=sql, access=Access.SCAN, indexes=indexes)
    return QueryPlan(sql=sql, access=Access.SORT if "Sort" in kinds else Access.SEEK, indexes=indexes)


def _of_mysql(sql: str, nodes: list[dict[str, Any]]) -> QueryPlan:
    indexes = tuple(dict.fromkeys(str(node["key"]) for node in nodes if isinstance(node.get("key"), str)))
    if any("filesort" in node or node.get("using_filesort") for node in nodes):
        return QueryPlan(sql=sql, access=Access.SORT, indexes=indexes)
    is_scan = any(node.get("access_type") == "ALL" for node in nodes)
    return QueryPlan(sql=sql, access=Access.SCAN if is_scan else Access.SEEK, indexes=indexes)


def _nodes(told: Any) -> Iterator[dict[str, Any]]:
    if isinstance(told, dict):
        yield told
    for inner in told.values() if isinstance(told, dict) else told if isinstance(told, list) else ():
        yield from _nodes(inner)
