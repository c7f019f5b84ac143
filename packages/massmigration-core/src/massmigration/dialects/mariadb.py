"""`MariaDBDialect`."""

from __future__ import annotations

from django.db.models import Model

from massmigration.dialects.mysql_base import BaseMySQLDialect
from massmigration.dialects.writer import Fields


class MariaDBDialect(BaseMySQLDialect):
    """MariaDB, where it differs from MySQL."""

    shared_lock_clause = " LOCK IN SHARE MODE"
    idle_limit_variable = "idle_transaction_timeout"

    def can_write_in_bulk(self, fields: Fields) -> bool:
        # A text key is compared with a derived table's column by their collations, which may not mix.
        key_type = fields[-1].rel_db_type(self.connection) or ""
        return self.are_plain(fields) and "char" not in key_type and "text" not in key_type

    def updated_tables(self, table: str, columns: str, placeholders: str, rows: int) -> str:
        values = ", ".join([f"({placeholders})"] * rows)
        return f"{table} JOIN (WITH v({columns}) AS (VALUES {values}) SELECT * FROM v) v"

    def estimated_table_rows(self, model: type[Model]) -> int | None:
        found = self.rows(
            "SELECT table_rows FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s",
            [model._meta.db_table],
        )
        return int(found[0][0]) if found and found[0][0] is not None else None

    def replica_status(self) -> tuple[str, str]:
        return "SHOW ALL SLAVES STATUS", "Seconds_Behind_Master"
