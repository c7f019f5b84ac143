"""The names of the tables and triggers of a change on MySQL and MariaDB."""

from __future__ import annotations

from massmigration_schema.dialects.base import Statements
from massmigration_schema.plan import ChangePlan

MAX_NAME = 64
MAX_STEM = 48
PREFIX = "mm_"
"""The beginning of the names of triggers."""


class MySQLNames(Statements):
    """The names of one change: as identifiers of statements and, with `_name`, as they are."""

    def __init__(self, db_alias: str, plan: ChangePlan) -> None:
        super().__init__(db_alias)
        stem = f"_{plan.table[:MAX_STEM]}"
        self.origin_name = plan.table
        self.shadow_name = f"{stem}_mmn_{plan.tag}"
        self.old_name = f"{stem}_mmo_{plan.tag}"
        self.log_name = f"{stem}_mmd_{plan.tag}"
        self.origin = self.quote(self.origin_name)
        self.shadow = self.quote(self.shadow_name)
        self.old = self.quote(self.old_name)
        self.log = self.quote(self.log_name)
        self.triggers = {
            event: f"{PREFIX}{plan.tag}_{event}_{plan.table}"[:MAX_NAME] for event in ("del", "upd", "ins")
        }
        """The names of the triggers by event, in the order in which they are made."""
