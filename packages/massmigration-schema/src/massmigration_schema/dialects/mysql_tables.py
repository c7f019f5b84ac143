"""`MySQLTables`: statements that create and drop the tables and triggers of a change on MySQL and MariaDB."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from massmigration_schema.costs import steps
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import TableBuilder
from massmigration_schema.dialects.mysql_editor import OtherTableGuard, shadow_editor, without_checks
from massmigration_schema.dialects.mysql_lock import MySQLLock
from massmigration_schema.dialects.mysql_names import MySQLNames
from massmigration_schema.dialects.mysql_rows import MySQLRows
from massmigration_schema.locks import LockLimits
from massmigration_schema.states import with_table, without_children

DATA_ERRORS = "1048, 1062, 1264, 1265, 1366, 1406, 1690, 4025, 3819"
"""What a row that does not fit raises. Never 1205 and 1213, timeout and deadlock, which the application must see."""

REASON = "@mm_why"
"""The variable of a trigger that contains why a row does not fit."""

GONE = "DECLARE CONTINUE HANDLER FOR 1146 BEGIN END; "
"""A new table that somebody has dropped must not make the application fail."""


OWN_FOREIGN_KEYS = """
    SELECT constraint_name, column_name FROM information_schema.key_column_usage
    WHERE table_schema = DATABASE() AND table_name = %s AND referenced_table_name IS NOT NULL
"""
FIRST_COLUMNS = """
    SELECT index_name, column_name FROM information_schema.statistics WHERE table_schema = DATABASE()
        AND table_name = %s AND seq_in_index = 1
"""


class MySQLTables(TableBuilder):
    """The tables and triggers of one change on MySQL and MariaDB."""

    def __init__(self, db_alias: str, derivation: Derivation, limits: LockLimits) -> None:
        super().__init__(db_alias, derivation, limits)
        self.lock = MySQLLock(db_alias)
        self.names = MySQLNames(db_alias, self.plan)

    @property
    def _is_mariadb(self) -> bool:
        connection: Any = self.connection
        return bool(connection.mysql_is_mariadb)

    @property
    def log_table(self) -> str:
        return self.names.log_name

    def build(self) -> None:
        """Make the tables. Nothing of it is transactional, so the tables of an earlier try are dropped first."""
        names = self.names
        self.execute(f"DROP TABLE IF EXISTS {names.shadow}, {names.log}")
        key_type = self.value(
            "SELECT column_type FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s "
            "AND column_name = %s",
            [names.origin_name, self.plan.old_key],
        )
        self.execute(
            f"CREATE TABLE {names.log} (id bigint AUTO_INCREMENT PRIMARY KEY, row_key {key_type} NOT NULL, "
            "why varchar(255) NOT NULL, at datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE=InnoDB"
        )
        self.execute(f"CREATE TABLE {names.shadow} LIKE {names.origin}")
        definition = self.rows(f"SHOW CREATE TABLE {names.origin}")[0][1]
        if found := re.search(r"\bAUTO_INCREMENT=(\d+)", definition):
            # Without it, the numbers of the newest rows would be used again if these were deleted.
            self.execute(f"ALTER TABLE {names.shadow} AUTO_INCREMENT = {found[1]}")
        self._run_operations()
        self._add_indexes_of_foreign_keys()

    def _run_operations(self) -> None:
        derivation, names = self.derivation, self.names
        state = without_children(derivation.before, derivation.app_label, derivation.model_name)
        state = with_table(state, derivation.app_label, derivation.model_name, names.shadow_name)
        editor: Any = shadow_editor(self.connection, names.origin_name, names.shadow_name)
        with OtherTableGuard(self.connection, names.shadow_name), editor(self.connection, atomic=False) as opened:
            for step in steps(derivation, state):
                step.operation.database_forwards(derivation.app_label, opened, step.before, step.after)

    def names_of_foreign_keys(self) -> dict[str, str]:
        return {column: name for name, column in self.rows(OWN_FOREIGN_KEYS, [self.names.origin_name])}

    def _add_indexes_of_foreign_keys(self) -> None:
        """Make the indexes that the server would make for new foreign keys, while the table is empty."""
        indexes = self.rows(FIRST_COLUMNS, [self.names.shadow_name])
        for key in self.foreign_keys():
            name, column = self.quote(key.name), self.quote(key.column)
            if key.column not in {column for _, column in indexes}:
                self.execute(f"CREATE INDEX {name} ON {self.names.shadow} ({column})")
            elif key.old_name != key.name and (key.old_name, key.column) in indexes:
                old = self.quote(key.old_name)
                self.execute(f"ALTER TABLE {self.names.shadow} RENAME INDEX {old} TO {name}")

    def create_triggers(self) -> None:
        self.replace_triggers(is_lenient=True)

    def replace_triggers(self, *, is_lenient: bool, events: Sequence[str] = ("del", "upd", "ins")) -> None:
        """Make the triggers. Each needs the metadata lock of the table.

        `is_lenient`: log the rows that do not fit. Otherwise the application's statement fails, as it would after the
        swap.
        """
        texts = self._texts(is_lenient=is_lenient)
        for event in events:
            name = self.quote(self.names.triggers[event])
            if not self._is_mariadb:
                self._alter(f"DROP TRIGGER IF EXISTS {name}")
            create = "CREATE OR REPLACE TRIGGER" if self._is_mariadb else "CREATE TRIGGER"
            self._alter(f"{create} {name} {texts[event]}")

    def strict_events(self) -> list[str]:
        """Return the events whose triggers are those that refuse rows which do not fit, exactly as they are made."""
        found, strict = self.trigger_texts(), self._texts(is_lenient=False)
        bodies = {event: strict[event].partition("FOR EACH ROW ")[2].replace("%%", "%") for event in ("upd", "ins")}
        return [event for event, body in bodies.items() if f" {body} " in found.get(self.names.triggers[event], "")]

    def _alter(self, sql: str) -> None:
        self.patient(lambda: self.execute(sql))

    def drop_triggers(self) -> None:
        """Drop the triggers, wherever they are."""
        for name in self.names.triggers.values():
            self._alter(f"DROP TRIGGER IF EXISTS {self.quote(name)}")

    def _texts(self, *, is_lenient: bool) -> dict[str, str]:
        names, rows = self.names, MySQLRows(self.db_alias, self.plan)
        old, new, shadow = self.quote(self.plan.old_key), self.quote(self.plan.new_key), names.shadow
        insert = f"INSERT INTO {shadow} ({rows.names}) VALUES ({rows.expressions('NEW')})"
        delete = f"DELETE FROM {shadow} WHERE {new} = OLD.{old}"
        update = f"UPDATE {shadow} SET {rows.assignments('NEW')} WHERE {new} = OLD.{old}"
        lenient = (
            f"DECLARE CONTINUE HANDLER FOR {DATA_ERRORS} BEGIN GET DIAGNOSTICS CONDITION 1 {REASON} = MESSAGE_TEXT; "
            f"INSERT INTO {names.log} (row_key, why) VALUES (NEW.{old}, LEFT({REASON}, 255)); END; "
        )
        handlers = GONE + (lenient if is_lenient else "")
        return {
            "del": f"AFTER DELETE ON {names.origin} FOR EACH ROW BEGIN {GONE}{delete}; END",
            "upd": f"AFTER UPDATE ON {names.origin} FOR EACH ROW BEGIN {handlers}IF OLD.{old} <=> NEW.{old} THEN "
            f"{update}; ELSE {delete}; {insert}; END IF; END",
            "ins": f"AFTER INSERT ON {names.origin} FOR EACH ROW BEGIN {handlers}{insert}; END",
        }

    def made(self) -> list[str]:
        names = [self.names.shadow_name, self.names.old_name, self.names.log_name]
        tables: Sequence[Any] = self.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
            "AND table_name IN (%s, %s, %s) ORDER BY 1",
            names,
        )
        return [*(name for (name,) in tables), *self.trigger_texts()]

    def trigger_texts(self) -> dict[str, str]:
        found = self.rows(
            "SELECT trigger_name, CONCAT(event_object_table, ' ', action_statement, ' ', sql_mode) "
            "FROM information_schema.triggers WHERE trigger_schema = DATABASE() AND trigger_name IN (%s, %s, %s)",
            list(self.names.triggers.values()),
        )
        return {name: str(text) for name, text in found}

    def drop(self) -> None:
        self.drop_triggers()
        with without_checks(self.execute):
            self.execute(f"DROP TABLE IF EXISTS {self.names.shadow}, {self.names.log}")
