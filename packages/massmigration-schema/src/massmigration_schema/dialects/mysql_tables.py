"""`BaseMySQLTables`: statements that create and drop the tables and triggers of a change on MySQL and MariaDB."""

from __future__ import annotations

import contextlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from massmigration_schema.costs import steps
from massmigration_schema.definition import TableDefinition
from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import Rows, TableBuilder, same, verbatim
from massmigration_schema.dialects.mysql_catalog import BaseMySQLCatalog
from massmigration_schema.dialects.mysql_checks import CheckNames
from massmigration_schema.dialects.mysql_editor import OtherTableGuard, shadow_editor, without_checks
from massmigration_schema.dialects.mysql_lock import BaseMySQLLock
from massmigration_schema.dialects.mysql_names import STRICT_EVENTS, MySQLNames, clone_name
from massmigration_schema.dialects.mysql_rows import BaseMySQLRows
from massmigration_schema.locks import LockLimits
from massmigration_schema.states import with_table, without_children

DATA_ERRORS = (1048, 1062, 1139, 1264, 1265, 1292, 1301, 1365, 1366, 1367, 1406, 1411, 1441, 1690)
"""What a row raises that does not fit, or whose transform cannot be computed.

Never 1205 and 1213, timeout and deadlock, which the application must see.
"""

REASON = "@mm_why"
"""The variable of a trigger that contains why a row does not fit."""

VERBS = {"del": "DELETE", "upd": "UPDATE", "ins": "INSERT"}
GONE = "DECLARE CONTINUE HANDLER FOR 1146 BEGIN END; "
"""A new table that somebody has dropped must not make the application fail."""


OWN_FOREIGN_KEYS = """
    SELECT column_name, constraint_name, referenced_table_name, referenced_column_name
    FROM information_schema.key_column_usage
    WHERE table_schema = DATABASE() AND table_name = %s AND referenced_table_name IS NOT NULL
"""
COLUMN_TYPES = """
    SELECT column_name, CONCAT(column_type, COALESCE(CONCAT(' CHARACTER SET ', character_set_name, ' COLLATE ',
        collation_name), ''))
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s
"""
FIRST_COLUMNS = """
    SELECT index_name, column_name FROM information_schema.statistics WHERE table_schema = DATABASE()
        AND table_name = %s AND seq_in_index = 1
"""


class BaseMySQLTables(TableBuilder):
    """The tables and triggers of one change on MySQL and MariaDB."""

    names: MySQLNames
    lock_class: ClassVar[type[BaseMySQLLock]]
    catalog_class: ClassVar[type[BaseMySQLCatalog]]
    rows_class: ClassVar[type[BaseMySQLRows]]
    data_errors: ClassVar[tuple[int, ...]] = DATA_ERRORS
    lenient_beginning: ClassVar[str] = ""
    """Statements before those that write the row."""

    def __init__(self, db_alias: str, derivation: Derivation, limits: LockLimits) -> None:
        super().__init__(db_alias, derivation, limits)
        self.lock = self.lock_class(db_alias)
        self.catalog = self.catalog_class(db_alias)
        self.names = MySQLNames(db_alias, self.plan)
        self.triggered = self.names.origin
        """The table that the triggers are made on."""

    @property
    def log_table(self) -> str:
        return self.names.log_name

    def build(self) -> None:
        """Make the tables. Nothing of it is transactional, so the tables of an earlier try are dropped first."""
        self.execute(f"DROP TABLE IF EXISTS {self.names.shadow}")
        self._create_log(self.names.origin_name)
        self._create_new()
        names = self.names
        self.require_same_collations(self._column_types(names.origin_name), self._column_types(names.shadow_name))
        self._add_indexes_of_foreign_keys()

    @contextlib.contextmanager
    def trial(self) -> Iterator[None]:
        names, before = self.names, self.names.shadow_name
        names.shadow_name = clone_name(names.origin_name)
        names.shadow = self.quote(names.shadow_name)
        try:
            self.execute(f"DROP TABLE IF EXISTS {names.shadow}")
            self._create_new()
            yield
        finally:
            self.execute(f"DROP TABLE IF EXISTS {names.shadow}")
            names.shadow_name, names.shadow = before, self.quote(before)

    def read_new(self) -> TableDefinition:
        if refusals := self.catalog.refusals_of_kind(self.names.shadow_name):
            raise refusals[0]
        found = self.catalog.read(self.names.shadow_name)
        assert found is not None
        return found

    def _create_new(self) -> None:
        names = self.names
        like = f"CREATE TABLE {names.shadow} LIKE {names.origin}"
        made = self.plan.definition % {"table": names.shadow.replace("%%", "%")}
        with OtherTableGuard(self.connection, names.shadow_name):
            self.execute(verbatim(made) or like)
        definition = self.rows(f"SHOW CREATE TABLE {names.origin}")[0][1]
        if found := re.search(r"\bAUTO_INCREMENT=(\d+)", definition):
            # Without it, the numbers of the newest rows would be used again if these were deleted.
            self.execute(f"ALTER TABLE {names.shadow} AUTO_INCREMENT = {found[1]}")
        self._run_operations()

    def _create_log(self, table: str) -> None:
        """Make the log again, for the keys of a table."""
        types = self._column_types(table)
        key = ", ".join(
            f"{name} {verbatim(types[column])} NOT NULL"
            for name, column in zip(self.plan.log_key, self.plan.old_key, strict=True)
        )
        self.execute(f"DROP TABLE IF EXISTS {self.names.log}")
        self.execute(
            f"CREATE TABLE {self.names.log} (id bigint AUTO_INCREMENT PRIMARY KEY, {key}, "
            "why varchar(255) NOT NULL, at datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE=InnoDB"
        )

    def _column_types(self, table: str) -> dict[str, str]:
        """Return the types of a table's columns, with their collations, by which keys are the same."""
        return dict(self.rows(COLUMN_TYPES, [table]))

    def create_back(self) -> None:
        """Make the log and the triggers of the way back, on the table that will be in use.

        They write to a name that the old table gets by the swap, and pass over that it does not exist yet.
        """
        self._create_log(self.names.old_name)
        self.triggered = self.names.old
        self.create_triggers()
        self.triggered = self.names.origin

    def _run_operations(self) -> None:
        derivation, names = self.derivation, self.names
        state = without_children(derivation.before, derivation.app_label, derivation.model_name)
        state = with_table(state, derivation.app_label, derivation.model_name, names.shadow_name)
        editor: Any = shadow_editor(self.connection, names.origin_name, names.shadow_name, self.check_names())
        with OtherTableGuard(self.connection, names.shadow_name), editor(self.connection, atomic=False) as opened:
            for step in steps(derivation, state):
                step.operation.database_forwards(derivation.app_label, opened, step.before, step.after)

    def check_names(self) -> CheckNames:
        """Return the names of the check constraints of the new table."""
        return CheckNames()

    def old_foreign_keys(self) -> Rows:
        return self.rows(OWN_FOREIGN_KEYS, [self.names.origin_name])

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

    @abstractmethod
    def make_strict(self) -> None:
        """Have the triggers refuse the rows that do not fit: the application's statement fails, as after the swap.

        There is no moment without triggers.
        """

    @abstractmethod
    def make_lenient(self) -> None:
        """Have the triggers log the rows that do not fit again. May be repeated."""

    @abstractmethod
    def strict_events(self) -> list[str]:
        """Return the events whose triggers refuse rows which do not fit."""

    def alter_triggers(self, sql: str) -> None:
        """Execute a statement on a trigger, which needs the metadata lock of the table."""
        self.patient(lambda: self.execute(sql))

    def drop_triggers(self) -> None:
        """Drop the triggers, wherever they are. Those that refuse rows come first."""
        for name in self.trigger_names():
            self.alter_triggers(f"DROP TRIGGER IF EXISTS {self.quote(name)}")

    def trigger_names(self) -> list[str]:
        """Return the names of all triggers that the change may have."""
        return list(self.names.triggers.values())

    def texts(self, *, is_lenient: bool) -> dict[str, str]:
        """Return, by event, what comes after the names of the triggers.

        `is_lenient`: log the rows that do not fit.
        """
        names, rows = self.names, self.rows_class(self.db_alias, self.plan)
        errors = ", ".join(map(str, self.data_errors))
        lenient = (
            f"DECLARE CONTINUE HANDLER FOR {errors} BEGIN GET DIAGNOSTICS CONDITION 1 {REASON} = MESSAGE_TEXT; "
            f"INSERT INTO {names.log} ({rows.log_columns}) VALUES ({', '.join(rows.old_key('NEW'))}, "
            f"LEFT({REASON}, 255)); END; "
        )
        lenient += self.lenient_beginning
        beginnings = dict.fromkeys(STRICT_EVENTS, GONE + (lenient if is_lenient else ""))
        start = {event: f"AFTER {verb} ON {self.triggered} FOR EACH ROW" for event, verb in VERBS.items()}
        return {
            event: f"{start[event]} BEGIN {beginnings.get(event, GONE)}{body} END"
            for event, body in self.bodies().items()
        }

    def bodies(self) -> dict[str, str]:
        """Return, by event, the statements that write the changed row to the new table."""
        rows = self.rows_class(self.db_alias, self.plan)
        shadow, before, after, new = self.names.shadow, rows.old_key("OLD"), rows.old_key("NEW"), rows.new_key()
        insert = f"INSERT INTO {shadow} ({rows.names}) VALUES ({rows.expressions('NEW')});"
        delete = f"DELETE FROM {shadow} WHERE {same(new, before)};"
        update = f"UPDATE {shadow} SET {rows.assignments('NEW')} WHERE {same(new, before)};"
        if self.plan.is_reverse:  # the row has more columns, so it is moved; it stays behind if it does not fit
            missing = f"IF NOT EXISTS (SELECT 1 FROM {shadow} WHERE {same(new, after)}) THEN {insert} END IF;"
            moved = f"IF NOT ({same(before, after)}) THEN {delete} END IF;"
            return {"del": delete, "upd": f"{update} {moved} {missing}", "ins": insert}
        # Another key is written in place if the row is there: in the swap, a DELETE would cascade to rows of others. If
        # the row does not fit, it is still under its old key.
        moved = f"{update} IF ROW_COUNT() = 0 THEN {insert} ELSE {delete} END IF;"
        return {
            "del": delete,
            "upd": f"IF {same(before, after)} THEN {update} ELSE {moved} END IF;",
            "ins": insert,
        }

    def made(self) -> list[str]:
        names = [self.names.shadow_name, self.names.old_name, *self.names.log_names]
        tables: Sequence[Any] = self.rows(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() "
            "AND table_name IN (%s, %s, %s, %s) ORDER BY 1",
            names,
        )
        return [*(name for (name,) in tables), *self.trigger_texts()]

    def trigger_texts(self) -> dict[str, str]:
        names = self.trigger_names()
        found = self.rows(
            "SELECT trigger_name, CONCAT(event_object_table, ' ', action_statement, ' ', sql_mode) "
            "FROM information_schema.triggers WHERE trigger_schema = DATABASE() AND trigger_name IN "
            f"({', '.join(['%s'] * len(names))})",
            names,
        )
        return {name: str(text) for name, text in found}

    def drop(self) -> None:
        self.drop_triggers()
        self.drop_tables(self.names.shadow_name, *self.names.log_names)

    def drop_tables(self, *names: str) -> None:
        """Drop tables, if they exist."""
        with without_checks(self.execute):
            self.execute(f"DROP TABLE IF EXISTS {', '.join(map(self.quote, names))}")
