"""The direct alteration of a table, without long waits for its lock."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from massmigration_schema.dialects.registry import SchemaDialect
from massmigration_schema.locks import patiently
from massmigration_schema.options import Online

Answer = TypeVar("Answer")
CHANGES = re.compile(r"\s*(ALTER|CREATE|DROP|RENAME)\b", re.IGNORECASE)


def alter(
    call: Callable[[], Answer], schema_editor: Any, table: str, *, online: Online, dialect: SchemaDialect
) -> Answer:
    """Call something that alters a table. Each lock of the whole table is requested briefly, again and again.

    `call`: may be called more than once if schema changes are transactional, each time from the beginning.
    """
    db_alias = schema_editor.connection.alias
    lock = dialect.lock(db_alias)

    def patient(attempt: Callable[[], Any]) -> Any:
        return patiently(lock, table, attempt, online.limits)

    if dialect.locks_statements:
        with _each_statement(schema_editor.connection, patient):
            return call()
    deferred = list(schema_editor.deferred_sql)

    def attempt() -> Answer:
        schema_editor.deferred_sql[:] = deferred
        return call()

    answer: Answer = patient(attempt)
    return answer


@contextlib.contextmanager
def _each_statement(connection: Any, patient: Callable[[Callable[[], Any]], Any]) -> Iterator[None]:
    """Execute every statement that changes a definition through `patient`."""
    is_inside = False

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal is_inside
        if is_inside or not CHANGES.match(sql):
            return execute(sql, params, many, context)
        is_inside = True
        try:
            return patient(lambda: execute(sql, params, many, context))
        finally:
            is_inside = False

    with connection.execute_wrapper(wrapper):
        yield
