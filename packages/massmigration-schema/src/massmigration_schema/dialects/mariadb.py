"""The classes of MariaDB, where it differs from MySQL."""

from __future__ import annotations

import contextlib

from django.db import DatabaseError

from massmigration_schema.dialects.base import Rows
from massmigration_schema.dialects.mysql_catalog import BaseMySQLCatalog
from massmigration_schema.dialects.mysql_lock import BaseMySQLLock
from massmigration_schema.dialects.mysql_names import STRICT_EVENTS
from massmigration_schema.dialects.mysql_rows import BaseMySQLRows
from massmigration_schema.dialects.mysql_tables import DATA_ERRORS, BaseMySQLTables

CHECKS = """
    SELECT c.constraint_name, c.check_clause FROM information_schema.check_constraints c
    JOIN information_schema.table_constraints t ON t.constraint_schema = c.constraint_schema
        AND t.constraint_name = c.constraint_name AND t.table_name = c.table_name
    WHERE t.table_schema = DATABASE() AND t.table_name = %s AND t.constraint_type = 'CHECK' ORDER BY 1
"""
PRIVILEGES = """
    SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = {who}
    UNION SELECT privilege_type FROM information_schema.schema_privileges
        WHERE grantee = {who} AND DATABASE() LIKE table_schema
    UNION SELECT privilege_type FROM information_schema.table_privileges
        WHERE grantee = {who} AND table_schema = DATABASE() AND table_name = %s
"""
WHO = "CONCAT('''', REPLACE(CURRENT_USER(), '@', '''@'''), '''')"
# The start is in the server's own time zone.
NOW = "CONVERT_TZ(NOW(6), @@SESSION.time_zone, 'SYSTEM')"
TRANSACTIONS = f"""
    SELECT t.trx_mysql_thread_id, p.user, TIMESTAMPDIFF(MICROSECOND, t.trx_started, {NOW}) / 1000000, LEFT(p.info, 200)
    FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
    WHERE t.trx_started < {NOW} - INTERVAL 0.3 SECOND AND p.id <> CONNECTION_ID() {{}} ORDER BY t.trx_started
"""
OF_TABLE = """
    AND EXISTS (SELECT 1 FROM information_schema.metadata_lock_info l WHERE l.thread_id = p.id
        AND l.table_schema = DATABASE() AND l.table_name = %s)
"""
OF_DATA = (
    1918,  # a value that cannot be converted
    4025,  # a check constraint
)


class MariaDBCatalog(BaseMySQLCatalog):
    """The catalog of MariaDB."""

    title = "MariaDB"
    oldest = (10, 6)
    part_of_index = "column_name"

    def checks(self, table: str) -> dict[str, str]:
        return {name: f"CHECK ({clause})" for name, clause in self.rows(CHECKS, [table])}

    def default_of(self, default: str | None, extra: str, *, is_nullable: bool) -> str:
        # A default is an expression: that of a nullable column without one is NULL.
        return "" if default is None or (is_nullable and default == "NULL") else str(default)

    def privileges(self, table: str) -> set[str]:
        return {str(each) for (each,) in self.rows(PRIVILEGES.format(who=WHO), [table])}


class MariaDBLock(BaseMySQLLock):
    """The metadata lock of a table on MariaDB."""

    has_quick_tries = True

    def server_id(self) -> str:
        return str(self.value("SELECT CONCAT(@@hostname, '/', @@server_id, '/', DATABASE())"))

    def old_transactions(self, table: str) -> Rows:
        with contextlib.suppress(DatabaseError):  # there is no plugin metadata_lock_info
            return self.rows(TRANSACTIONS.format(OF_TABLE), [table])
        with contextlib.suppress(DatabaseError):  # there is no privilege
            return self.rows(TRANSACTIONS.format(""))
        return []


class MariaDBRows(BaseMySQLRows):
    """The rows of one change on MariaDB."""

    shared_lock = "LOCK IN SHARE MODE"


class MariaDBTables(BaseMySQLTables):
    """The tables and triggers of one change on MariaDB, where a trigger is replaced by one statement."""

    lock_class = MariaDBLock
    catalog_class = MariaDBCatalog
    rows_class = MariaDBRows
    data_errors = (*DATA_ERRORS, *OF_DATA)

    def create_triggers(self) -> None:
        self._replace(self.texts(is_lenient=True))

    def make_strict(self) -> None:
        texts = self.texts(is_lenient=False)
        self._replace({event: texts[event] for event in STRICT_EVENTS})

    def make_lenient(self) -> None:
        texts = self.texts(is_lenient=True)
        self._replace({event: texts[event] for event in self.strict_events()})

    def _replace(self, texts: dict[str, str]) -> None:
        for event, text in texts.items():
            self.alter_triggers(f"CREATE OR REPLACE TRIGGER {self.quote(self.names.triggers[event])} {text}")

    def strict_events(self) -> list[str]:
        found, strict = self.trigger_texts(), self.texts(is_lenient=False)
        bodies = {event: strict[event].partition("FOR EACH ROW ")[2].replace("%%", "%") for event in STRICT_EVENTS}
        return [event for event, body in bodies.items() if f" {body} " in found.get(self.names.triggers[event], "")]
