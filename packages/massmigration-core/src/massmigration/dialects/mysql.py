"""`MySQLDialect`."""

from __future__ import annotations

from django.db.models import Model

from massmigration.dialects.base import ServerProblem
from massmigration.dialects.mysql_base import BaseMySQLDialect
from massmigration.dialects.writer import Fields

VALUES_ROW = (8, 0, 19)
"""The first version that knows VALUES ROW."""

SHOW_REPLICA = (8, 0, 22)
"""The first version that knows SHOW REPLICA STATUS."""


class MySQLDialect(BaseMySQLDialect):
    """MySQL, where it differs from MariaDB."""

    shared_lock_clause = " FOR SHARE"

    # The limit for idle sessions: within a transaction, an idle session is an idle transaction.
    idle_limit_variable = "wait_timeout"

    def can_write_in_bulk(self, fields: Fields) -> bool:
        return self.are_plain(fields) and self._knows_values_row()

    def _knows_values_row(self) -> bool:
        version: tuple[int, ...] = self.connection.mysql_version  # type: ignore[attr-defined]  # of MySQL's wrapper
        return version >= VALUES_ROW

    def updated_tables(self, table: str, columns: str, placeholders: str, rows: int) -> str:
        # The values first, and each row by its key. Otherwise the planner may read the whole table, which locks it.
        values = ", ".join([f"ROW({placeholders})"] * rows)
        return f"(VALUES {values}) AS v ({columns}) STRAIGHT_JOIN {table}"

    def estimated_table_rows(self, model: type[Model]) -> int | None:
        # Not from information_schema: what it says there may be a day old.
        return self._explained_rows(f"SELECT 1 FROM {self.connection.ops.quote_name(model._meta.db_table)}")

    def replica_status(self) -> tuple[str, str]:
        version: tuple[int, ...] = self.connection.mysql_version  # type: ignore[attr-defined]  # of MySQL's wrapper
        if version >= SHOW_REPLICA:
            return "SHOW REPLICA STATUS", "Seconds_Behind_Source"
        return "SHOW SLAVE STATUS", "Seconds_Behind_Master"

    def server_problems(self) -> list[ServerProblem]:
        problems = super().server_problems()
        if not self._knows_values_row():
            found = ".".join(map(str, self.connection.mysql_version))  # type: ignore[attr-defined]
            problems.append(
                ServerProblem(
                    text=f"MySQL {found} writes the objects of a batch with CASE expressions, which takes several "
                    "times as long as on newer versions",
                    hint="Upgrade to MySQL 8.0.19 or newer, or change rows with operation_batch and update() instead "
                    "of update_fields.",
                )
            )
        return problems
