"""The names of the tables and triggers of a change on MySQL and MariaDB."""

from __future__ import annotations

import hashlib

from massmigration_schema.dialects.base import Statements
from massmigration_schema.plan import ChangePlan

MAX_NAME = 64
MAX_STEM = 44
"""So many characters of the table's name leave space for `_chk_` and a number, which MySQL adds for a check."""

PREFIX = "mm_"
"""The beginning of the names of triggers."""

EVENTS = ("del", "upd", "ins")
ORIGINAL_EVENTS = {"del": "delete", "upd": "update", "ins": "insert"}
"""The events in the names of triggers that Django Online Migration gave."""

STRICT_EVENTS = ("upd", "ins")
"""The events whose rows may not fit the new table."""


def clone_name(table: str) -> str:
    """Return the name of an empty copy of a table that is made for a question, and dropped."""
    return f"_mmc_{hashlib.sha1(table.encode()).hexdigest()[:12]}"  # a name, not a secret


class MySQLNames(Statements):
    """The names of one change: as identifiers of statements and, with `_name`, as they are."""

    def __init__(self, db_alias: str, plan: ChangePlan) -> None:
        super().__init__(db_alias)
        self._tag, self._word = plan.tag, "back_" if plan.is_reverse else ""
        stem = f"_{plan.table[:MAX_STEM]}"
        self.origin_name, self._is_original = plan.table, plan.is_original and not plan.is_reverse
        names = [f"{stem}_mmn_{plan.tag}", f"{stem}_mmo_{plan.tag}"]
        if plan.is_original:
            names = [f"{word}_{plan.table}"[:MAX_NAME] for word in ("migrate", "archive")]
        self.shadow_name, self.old_name = reversed(names) if plan.is_reverse else names
        """The names of the table that will be in use, and of the one that was."""

        self.log_names = [f"{stem}_mmd_{plan.tag}", f"{stem}_mmr_{plan.tag}"]
        """The logs of both directions."""

        self.log_name = self.log_names[plan.is_reverse]
        self.origin = self.quote(self.origin_name)
        self.shadow = self.quote(self.shadow_name)
        self.old = self.quote(self.old_name)
        self.log = self.quote(self.log_name)
        self.triggers = {event: self._trigger(event) for event in EVENTS}
        """The names of the triggers by event, in the order in which they are made."""

        self.refusing_triggers = {event: self._trigger(f"strict_{event}") for event in STRICT_EVENTS}
        """The names, by event, of second triggers that refuse what does not fit. Only MySQL needs them."""

    def _trigger(self, event: str) -> str:
        if self._is_original and event in ORIGINAL_EVENTS:
            return f"migration_trigger_{ORIGINAL_EVENTS[event]}_{self.origin_name}"[:MAX_NAME]
        return f"{PREFIX}{self._tag}_{self._word}{event}_{self.origin_name}"[:MAX_NAME]
