"""Refuses, inside a batch, what would end its transaction."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connections

from massmigration.exceptions import DDLInBatch

# Each commits what went before it: on MySQL and MariaDB every change of the schema, everywhere a COMMIT.
_SCHEMA = re.compile(
    r"\s*(ALTER|CREATE(?!\s+TEMPORARY)|DROP(?!\s+TEMPORARY)|RENAME|TRUNCATE|LOCK\s+TABLES?|UNLOCK)\b", re.IGNORECASE
)
_TRANSACTION = re.compile(
    r"\s*(COMMIT|BEGIN|START\s+TRANSACTION|ROLLBACK(?!\s+TO\b)|END)\s*(WORK|TRANSACTION)?\s*;?\s*$", re.IGNORECASE
)

_ADVICE = "Set atomic = False on the migration; its operation may then be repeated after a crash."


@contextlib.contextmanager
def no_implicit_commit(db_alias: str) -> Iterator[None]:
    """Raise `DDLInBatch` before a statement that would commit half of a batch is executed."""
    connection = connections[db_alias]
    commits_schema = not connection.features.can_rollback_ddl

    def guard(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if isinstance(sql, str) and (_TRANSACTION.match(sql) or (commits_schema and _SCHEMA.match(sql))):
            raise DDLInBatch(
                f"The operation executed {sql[:80]!r} inside a batch, which would commit half of it. {_ADVICE}"
            )
        return execute(sql, params, many, context)

    with connection.execute_wrapper(guard):
        yield


def explained(error: Exception) -> Exception:
    """`error`, with what to do about it when it is about the batch's own transaction."""
    if isinstance(error, RuntimeError) and "durable" in str(error) and "atomic" in str(error):
        advised = RuntimeError(f"{error} A batch is a transaction already. {_ADVICE}")
        return advised.with_traceback(error.__traceback__)
    return error
