"""The cost of operations on MySQL and MariaDB, by trying them on an empty copy of the table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError

from massmigration_schema.costs import Cost, OperationCost, steps
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import Statements
from massmigration_schema.dialects.mysql_checks import CheckNames
from massmigration_schema.dialects.mysql_editor import OtherTableGuard, shadow_editor
from massmigration_schema.dialects.mysql_names import clone_name
from massmigration_schema.states import with_table, without_children

NOT_SUPPORTED = frozenset({1235, 1845, 1846})
"""The server's answers to an algorithm that a statement cannot have."""

DROP_INDEX = re.compile(r"\s*DROP\s+INDEX\s+(?P<name>`[^`]+`)\s+ON\s+(?P<table>`[^`]+`)\s*;?\s*", re.IGNORECASE)
ALGORITHMS = (("INSTANT", "", Cost.INSTANT), ("INPLACE", "NONE", Cost.IN_PLACE))


class BaseMySQLTrial(Statements):
    """A trial of the operations on an empty copy of the table, each with the cheapest algorithm that it allows."""

    def __init__(self, derivation: Derivation, db_alias: str) -> None:
        super().__init__(db_alias)
        self._derivation = derivation
        self._table = derivation.old_model._meta.db_table
        self._clone = clone_name(self._table)
        self._tried: list[tuple[str, Cost]] = []

    def costs(self) -> list[OperationCost]:
        """Return the cost of each operation."""
        self.execute(f"DROP TABLE IF EXISTS {self.quote(self._clone)}")
        try:
            self.execute(f"CREATE TABLE {self.quote(self._clone)} LIKE {self.quote(self._table)}")
            return self._on_clone()
        finally:
            self.execute(f"DROP TABLE IF EXISTS {self.quote(self._clone)}")

    def check_names(self, table: str, clone: str) -> CheckNames:
        """Return the names of the check constraints on the copy."""
        return CheckNames()

    def _on_clone(self) -> list[OperationCost]:
        derivation, found = self._derivation, []
        state = without_children(derivation.before, derivation.app_label, derivation.model_name)
        state = with_table(state, derivation.app_label, derivation.model_name, self._clone)
        checks = self.check_names(self._table, self._clone)
        editor: Any = shadow_editor(self.connection, self._table, self._clone, checks)
        guard = OtherTableGuard(self.connection, self._clone, self._attempt)
        with guard:
            for step in steps(derivation, state):
                self._tried, before = [], len(guard.left_out)
                with editor(self.connection, atomic=False) as opened:
                    step.operation.database_forwards(derivation.app_label, opened, step.before, step.after)
                for sql in guard.left_out[before:]:
                    # With the checks of foreign keys on, the server copies the table.
                    self._tried.append((sql, Cost.IN_PLACE if "DROP FOREIGN KEY" in sql else Cost.COPY))
                found.append(
                    OperationCost(
                        description=step.operation.describe(),
                        cost=max((cost for _, cost in self._tried), default=Cost.INSTANT),
                        statements=[checks.restored(sql).replace(self._clone, self._table) for sql, _ in self._tried],
                    )
                )
        return found

    def _attempt(self, sql: str, execute: Callable[[str], Any]) -> Any:
        for algorithm, lock, cost in ALGORITHMS:
            text = _with_algorithm(sql, algorithm, lock)
            if text is None:
                break
            try:
                answer = execute(text)
            except DatabaseError as error:
                cause = error.__cause__ or error
                if not cause.args or cause.args[0] not in NOT_SUPPORTED:
                    raise
            else:
                self._tried.append((sql, cost))
                return answer
        self._tried.append((sql, Cost.COPY))
        return execute(sql)


def _with_algorithm(sql: str, algorithm: str, lock: str) -> str | None:
    """Return a statement with an algorithm, or None if it can have none."""
    clauses = [f"ALGORITHM={algorithm}", *([f"LOCK={lock}"] if lock else [])]
    if re.match(r"\s*ALTER\s+TABLE\b", sql, re.IGNORECASE):
        return ", ".join([sql.rstrip().rstrip(";"), *clauses])
    if dropped := DROP_INDEX.fullmatch(sql):  # MariaDB has no such clauses there
        return ", ".join([f"ALTER TABLE {dropped['table']} DROP INDEX {dropped['name']}", *clauses])
    if re.match(r"\s*CREATE\b.*\bINDEX\b", sql, re.IGNORECASE):
        return " ".join([sql.rstrip().rstrip(";"), *clauses])
    return None
