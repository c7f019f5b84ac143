"""The names of the tables and triggers of a change on PostgreSQL.

Each change has schemas of its own, so that tables, indexes, constraints and sequences have their final names from the
beginning, and so that two changes never meet.
"""

from __future__ import annotations

import functools

from massmigration_schema.dialects.base import Statements
from massmigration_schema.plan import ChangePlan

SHADOWS = "mm_shadow_"
OLD = "mm_old_"
"""The beginnings of the names of schemas."""


class PostgreSQLNames(Statements):
    """The names of one change, as identifiers of statements."""

    def __init__(self, db_alias: str, plan: ChangePlan) -> None:
        super().__init__(db_alias)
        self.plan = plan
        self.own_schema = f"{SHADOWS}{plan.tag}"
        """The schema of the logs and functions, in both directions."""

        self.table = self.quote(plan.table)
        schemas = [self.own_schema, f"{OLD}{plan.tag}"]
        shadow_schema, self.old_schema = reversed(schemas) if plan.is_reverse else schemas
        """The schemas of the table that will be in use, and of the one that was."""

        self.use_shadow_schema(shadow_schema)
        self.old = f"{self.old_schema}.{self.table}"
        self.log_name = "reverse_log" if plan.is_reverse else "change_log"
        self.log = f"{self.own_schema}.{self.log_name}"
        word = "back" if plan.is_reverse else "sync"
        self.function = f"{self.own_schema}.{word}"
        self.trigger = f"mm_{word}_{plan.tag}"

    def use_shadow_schema(self, schema: str) -> None:
        """Set the schema of the table that will be in use."""
        self.shadow_schema = schema
        self.shadow = f"{schema}.{self.table}"

    @functools.cached_property
    def schema(self) -> str:
        """The schema of the table that the models name, which the search path finds."""
        found = self.value(
            "SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.oid = to_regclass(%s)",
            [self.connection.ops.quote_name(self.plan.table)],
        )
        return str(found or self.value("SELECT quote_ident(current_schema())")).replace("%", "%%")

    @property
    def origin(self) -> str:
        """The table that the models name."""
        return f"{self.schema}.{self.table}"
