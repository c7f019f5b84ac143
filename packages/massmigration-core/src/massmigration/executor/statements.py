"""Monitoring of an operation's SQL: refuses statements that commit its batch, and counts the changed rows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from django.db import connections

from massmigration.dialects import dialect_of
from massmigration.exceptions import DDLInBatch
from massmigration.executor.errors import ATOMIC_FALSE_ADVICE
from massmigration.executor.objects import Written
from massmigration.executor.outcomes import Effect

_SPACE = re.compile(r"\s*")

_TRANSACTION = re.compile(
    r"(?:COMMIT|BEGIN|START\s+TRANSACTION|ROLLBACK(?!\s+TO\b)|END)\s*(?:(?:WORK|TRANSACTION)\s*)?(?:;\s*)?$",
    re.IGNORECASE,
)


@contextlib.contextmanager
def no_implicit_commit(db_alias: str) -> Iterator[None]:
    """Raise `DDLInBatch` instead of executing a statement that would commit half of a batch."""
    implicit_commits = dialect_of(db_alias).implicit_commits()

    def guard(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        if isinstance(sql, str) and _would_commit(sql, implicit_commits):
            raise DDLInBatch(
                f"The operation executed {sql[:80]!r} inside a batch, which would commit the batch before its end. "
                f"{ATOMIC_FALSE_ADVICE}"
            )
        return execute(sql, params, many, context)

    with connections[db_alias].execute_wrapper(guard):
        yield


def _would_commit(sql: str, implicit_commits: re.Pattern[str] | None) -> bool:
    start = start_of(sql)
    return bool(_TRANSACTION.match(sql, start) or (implicit_commits and implicit_commits.match(sql, start)))


def start_of(sql: str) -> int:
    """Return the offset of a statement after white space and comments.

    A regular expression for both can take exponential time.
    """
    at = 0
    while True:
        at = _SPACE.match(sql, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if sql.startswith("/*", at):
            end, closing = sql.find("*/", at + 2), 2
        elif sql.startswith(("--", "#"), at):
            end, closing = sql.find("\n", at), 1
        else:
            return at
        if end < 0:
            return len(sql)
        at = end + closing


# A SELECT counts as read-only if it calls only the functions below. Other functions may be the project's own.
_READ = re.compile(r"\s*(?:SELECT\b|SAVEPOINT\b|RELEASE\s+SAVEPOINT\b|PRAGMA\s+foreign_key_check\b)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[^\w.]")
_LONGEST = 64
"""The maximum length of a known function's name, in characters."""

_HARMLESS = re.compile(
    r"""
    AND | AS | BETWEEN | BY | CASE | ELSE | EXISTS | FILTER | FROM | GROUP | HAVING | IN | JOIN | LIKE | NOT | ON | OR
    | OVER | PARTITION | SELECT | THEN | UNION | USING | VALUES | WHEN | WHERE | ALL | ANY | SOME | DISTINCT
    | COUNT | SUM | AVG | MIN | MAX | COALESCE | NULLIF | IFNULL | GREATEST | LEAST | IIF | IF | CAST | CONVERT
    | LOWER | UPPER | LENGTH | CHAR_LENGTH | CONCAT | CONCAT_WS | SUBSTRING | SUBSTR | [LR]?TRIM | REPLACE | [LR]PAD
    | LEFT | RIGHT | REPEAT | REVERSE | INSTR | STRPOS | LOCATE | POSITION | MD5 | HEX | ASCII | CHR
    | ABS | ROUND | FLOOR | CEIL | CEILING | MOD | POWER | SQRT | SIGN | EXP | LN | LOG
    | EXTRACT | DATE | TIME | NOW | DATE_TRUNC | DATE_FORMAT | TIMESTAMPDIFF
    | JSON_EXTRACT | JSON_UNQUOTE | JSON_TYPE | JSON_OBJECT | JSON_CONTAINS
    | ROW_NUMBER | RANK | DENSE_RANK | LAG | LEAD | FIRST_VALUE | LAST_VALUE | NTILE
    | VARCHAR | CHAR | NUMERIC | DECIMAL | BINARY | DJANGO_\w+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_WRITE = re.compile(r"\s*(INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
_MISCOUNTED = re.compile(r"\bON\s+DUPLICATE\s+KEY\b|\bRETURNING\b", re.IGNORECASE)


class Statements:
    """The executed statements that may have changed rows."""

    def __init__(self) -> None:
        self.writes = 0
        """The number of statements."""

        self.rows: int | None = 0
        """The number of rows that they changed, or None if it is unknown."""

        self.may_delete = False
        """Whether rows may have been deleted."""

    def effect(self, written: Written) -> Effect:
        """Return the effect of an operation, including the rows that the engine wrote for it."""
        # If both have written rows, they may be the same rows, so the number is unknown.
        changed = written.changed if not self.writes else None if written.changed else self.rows
        return Effect(skipped=written.vanished, changed=changed)

    def note(self, sql: Any, rowcount: int) -> None:
        """Record a statement that was executed. A negative row count means unknown."""
        if isinstance(sql, str) and _only_reads(sql):
            return
        found = _WRITE.match(sql) if isinstance(sql, str) else None
        verb = found[1].upper() if found else ""
        self.writes += 1
        # Two statements may have changed the same rows. MariaDB counts a row twice if an INSERT updated it, and SQLite
        # counts no rows before the results of RETURNING are read.
        is_known = self.writes == 1 and verb and rowcount >= 0 and not _MISCOUNTED.search(sql)
        self.rows = rowcount if is_known else None
        self.may_delete = self.may_delete or verb not in ("INSERT", "UPDATE")


def _only_reads(sql: str) -> bool:
    if not _READ.match(sql):
        return False
    if "INTO" in sql.upper():
        return False
    # A regular expression that finds names before parentheses takes 100 times as long.
    return all(_is_harmless(before[-_LONGEST:].rstrip()) for before in sql.split("(")[:-1])


def _is_harmless(before: str) -> bool:
    """Return whether the text before a parenthesis calls no function that may change rows."""
    name = _SEPARATOR.split(before)[-1]
    return _is_known(name) if name else not before.endswith(('"', "`"))


@lru_cache(maxsize=1000)
def _is_known(name: str) -> bool:
    return _HARMLESS.fullmatch(name) is not None


@contextlib.contextmanager
def watched(db_alias: str, statements: Statements | None = None) -> Iterator[Statements]:
    """Yield the statements that this thread sends to any database through Django's cursors during the block."""
    statements = statements or Statements()
    if not dialect_of(db_alias).has_sql:  # the driver's calls do not use Django's cursors
        statements.note(None, -1)

    def watch(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]) -> Any:
        result = execute(sql, params, many, context)
        statements.note(sql, -1 if many else context["cursor"].rowcount)
        return result

    before = {connection.alias: connection for connection in connections.all(initialized_only=True)}
    before.setdefault(db_alias, connections[db_alias])
    with contextlib.ExitStack() as stack:
        for connection in before.values():
            stack.enter_context(connection.execute_wrapper(watch))
        yield statements
    if any(connection.alias not in before for connection in connections.all(initialized_only=True)):
        statements.note(None, -1)  # the new connection was not watched
