"""Tells databases of documents, Datastore and Firestore through gcloudc, from those of SQL."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db import connections

ENGINE = "gcloudc."

MAX_BATCH_SIZE = 200
"""Objects in one transaction: two entities for each of them stay within Datastore's 500."""


def is_of_documents(db_alias: str) -> bool:
    """Whether it has no SQL: no conditional UPDATE, no row locks, no savepoints, no clock that a query can ask."""
    engine: Any = type(connections[db_alias])
    return _is_engine_of_documents(engine)


@cache
def _is_engine_of_documents(engine: type[Any]) -> bool:
    return any(base.__module__.startswith(ENGINE) for base in engine.__mro__)
