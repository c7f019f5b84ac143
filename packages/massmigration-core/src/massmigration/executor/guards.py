"""Refuses, inside a batch, what would end its transaction."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from django.db import InternalError, connections, transaction

from massmigration.exceptions import DDLInBatch

_COMMENTS = r"(?:\s|/\*.*?\*/|(?:--|\#)[^\n]*\n)*"

# Each commits what went before it: on MySQL and MariaDB every change of the schema, everywhere a COMMIT.
_SCHEMA = re.compile(
    _COMMENTS
    + r"""(?:
        (?:ALTER|CREATE(?!\s+TEMPORARY)|DROP(?!\s+TEMPORARY)|RENAME|TRUNCATE|GRANT|REVOKE|FLUSH|UNLOCK)\b
        | (?:ANALYZE|CHECK|OPTIMIZE|REPAIR)\s+(?:LOCAL\s+|NO_WRITE_TO_BINLOG\s+)?TABLES?\b
        | LOCK\s+TABLES?\b
        | SET\s+(?:SESSION\s+|@@(?:SESSION\.)?)?AUTOCOMMIT\b
    )""",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_TRANSACTION = re.compile(
    _COMMENTS + r"(?:COMMIT|BEGIN|START\s+TRANSACTION|ROLLBACK(?!\s+TO\b)|END)\s*(?:WORK|TRANSACTION)?\s*;?\s*$",
    re.IGNORECASE | re.DOTALL,
)

_SWALLOWED = (
    "The operation caught a database error without transaction.atomic() around the statement that raised it, "
    "so everything it wrote for this object is lost. Put one there."
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


def check_not_spoiled(db_alias: str) -> None:
    """Raise if the operation swallowed an error. Django would leave the savepoint without a word."""
    if connections[db_alias].needs_rollback:
        raise transaction.TransactionManagementError(_SWALLOWED)


def explained(error: Exception) -> Exception:
    """`error`, with what to do about it when it is about the batch's own transaction."""
    advised: Exception
    if isinstance(error, RuntimeError) and "durable" in str(error) and "atomic" in str(error):
        advised = RuntimeError(f"{error} A batch is a transaction already. {_ADVICE}")
    elif _is_consequence(error):
        advised = transaction.TransactionManagementError(_SWALLOWED)
    else:
        return error
    advised.__cause__ = error
    return advised.with_traceback(error.__traceback__)


def _is_consequence(error: Exception) -> bool:
    """Whether it is what Django or PostgreSQL say of every statement after one that failed."""
    if isinstance(error, transaction.TransactionManagementError):
        return "until the end of the 'atomic' block" in str(error)
    states = (getattr(error.__cause__, name, None) for name in ("sqlstate", "pgcode"))
    return isinstance(error, InternalError) and "25P02" in states
