"""Django's schema editor on MySQL and MariaDB, working on a table beside the one that the models name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from massmigration_schema.dialects.mysql_checks import CheckNames
from massmigration_schema.exceptions import Refused

TABLE = re.compile(
    r"\s*(?:ALTER\s+TABLE|CREATE\s+TABLE|DROP\s+TABLE|RENAME\s+TABLE|UPDATE|DELETE\s+FROM|INSERT\s+INTO"
    r"|(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+`(?:[^`]|``)+`\s+ON)\s+`((?:[^`]|``)+)`",
    re.IGNORECASE,
)
"""The beginning of a statement that changes a table, with the table's name."""

FOREIGN_KEY = re.compile(r"\bFOREIGN KEY\b|\bCONSTRAINT `(?:[^`]|``)+` REFERENCES\b", re.IGNORECASE)
READS = re.compile(r"\s*(?:SELECT|SHOW|SET)\b", re.IGNORECASE)


def shadow_editor(connection: BaseDatabaseWrapper, origin: str, shadow: str, checks: CheckNames) -> Any:
    """Return a class of schema editor that gives the shadow's indexes the names that the origin's have.

    The names of indexes and of unique constraints are a table's own. Django makes them of the table's name.

    `checks`: the names of the shadow's check constraints.
    """
    base: Any = connection.SchemaEditorClass

    def _create_index_name(self: Any, table_name: str, column_names: Sequence[str], suffix: str = "") -> str:
        name = origin if table_name == shadow else table_name
        return str(base._create_index_name(self, name, column_names, suffix))

    def _check_sql(self: Any, name: str, check: Any) -> Any:
        return base._check_sql(self, checks.created(name), check)

    def _create_check_sql(self: Any, model: Any, name: str, check: Any) -> Any:
        return base._create_check_sql(self, model, checks.created(name), check)

    def _delete_check_sql(self: Any, model: Any, name: str) -> Any:
        return base._delete_check_sql(self, model, checks.deleted(name))

    changed = {
        "_create_index_name": _create_index_name,
        "_check_sql": _check_sql,
        "_create_check_sql": _create_check_sql,
        "_delete_check_sql": _delete_check_sql,
        # A foreign key in the statement that adds its column could not be left out.
        "sql_create_column_inline_fk": None,
    }
    return type("ShadowEditor", (base,), changed)


class OtherTableGuard(contextlib.AbstractContextManager["OtherTableGuard"]):
    """A guard that refuses statements on other tables, and omits foreign keys: their names are unique in a database.

    `attempt`: called with each statement and a function that executes it.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        table: str,
        attempt: Callable[[str, Callable[[str], Any]], Any] | None = None,
    ) -> None:
        self._connection = connection
        self._table = table
        self._attempt = attempt
        self._stack = contextlib.ExitStack()
        self.left_out: list[str] = []
        """The foreign keys that were left out."""

    def __enter__(self) -> OtherTableGuard:
        self._stack.enter_context(self._connection.execute_wrapper(self._guard))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _guard(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if READS.match(sql):
            return execute(sql, params, many, context)
        named = TABLE.match(sql)
        table = named[1].replace("``", "`") if named else None
        if table != self._table:
            raise Refused(
                "online.other_table",
                f"The operations would change {f'table {table!r}' if table else 'something else'}: {sql:.200}. "
                "An online change can change one table. Move the operation to another migration.",
            )
        if FOREIGN_KEY.search(sql):
            self.left_out.append(sql)
            return None
        if self._attempt is None:
            return execute(sql, params, many, context)
        return self._attempt(sql, lambda text: execute(text, params, many, context))


@contextlib.contextmanager
def without_checks(execute: Callable[[str], Any]) -> Iterator[None]:
    """Switch the session's checks of foreign keys off: with them, a foreign key cannot be added in place."""
    execute("SET SESSION foreign_key_checks = 0")
    try:
        yield
    finally:
        execute("SET SESSION foreign_key_checks = 1")
