"""The negative control: LHM's statements in place of this project's, to see that the oracle finds what they lose.

REPLACE in the triggers, and INSERT IGNORE without locks in the copy, at READ COMMITTED. MariaDB and MySQL only.
"""

from __future__ import annotations

from typing import Any

from massmigration_schema.dialects.mysql_rows import BaseMySQLRows
from massmigration_schema.dialects.mysql_tables import BaseMySQLTables


def unverified() -> None:
    """Have this process copy rows as LHM does, and compare none."""
    verified()
    BaseMySQLRows.verify = lambda self, queryset: 0  # type: ignore[method-assign]


def verified() -> None:
    """Have this process copy rows as LHM does, but compare all of them."""

    def bodies(self: Any) -> dict[str, str]:
        rows = self.rows_class(self.db_alias, self.plan)
        old, new, shadow = self.quote(self.plan.old_key[0]), self.quote(self.plan.new_key[0]), self.names.shadow
        replace = f"REPLACE INTO {shadow} ({rows.names}) VALUES ({rows.expressions('NEW')});"
        delete = f"DELETE IGNORE FROM {shadow} WHERE {new} = OLD.{old};"
        return {"del": delete, "upd": f"IF OLD.{old} <> NEW.{old} THEN {delete} END IF; {replace}", "ins": replace}

    def copy(self: Any, queryset: Any) -> None:
        names = self._names
        where, params = self.condition(queryset, "o")
        self.execute(
            f"INSERT IGNORE INTO {names.shadow} ({self.names}) SELECT {self.expressions('o')} "
            f"FROM {names.origin} o WHERE {where}",
            params,
        )

    BaseMySQLTables.bodies = bodies  # type: ignore[method-assign]
    BaseMySQLRows.copy = copy  # type: ignore[method-assign]
