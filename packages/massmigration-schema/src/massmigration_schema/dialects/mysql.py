"""The classes of MySQL, where it differs from MariaDB."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import ClassVar

from django.db import DatabaseError
from django.db.models import CheckConstraint

from massmigration_schema.derivation import Derivation
from massmigration_schema.dialects.base import Rows
from massmigration_schema.dialects.mysql_catalog import NEEDED, BaseMySQLCatalog
from massmigration_schema.dialects.mysql_checks import CheckNames, CopiedCheckNames, temporary_name
from massmigration_schema.dialects.mysql_costs import BaseMySQLTrial
from massmigration_schema.dialects.mysql_lock import BaseMySQLLock
from massmigration_schema.dialects.mysql_names import MySQLNames
from massmigration_schema.dialects.mysql_rows import BaseMySQLRows
from massmigration_schema.dialects.mysql_tables import DATA_ERRORS, GONE, REASON, VERBS, BaseMySQLTables
from massmigration_schema.exceptions import Refused
from massmigration_schema.locks import patiently

CHECKS = """
    SELECT c.constraint_name, c.check_clause, t.enforced FROM information_schema.check_constraints c
    JOIN information_schema.table_constraints t ON t.constraint_schema = c.constraint_schema
        AND t.constraint_name = c.constraint_name
    WHERE t.table_schema = DATABASE() AND t.table_name = %s AND t.constraint_type = 'CHECK' ORDER BY 1
"""
PLACES_OF_CHECKS = """
    SELECT constraint_name, table_name FROM information_schema.table_constraints
    WHERE constraint_schema = DATABASE() AND constraint_type = 'CHECK'
"""
GRANT = re.compile(
    r"GRANT (?P<privileges>.+?) ON (?:TABLE )?(?P<schema>\*|`(?:[^`]|``)+`)\.(?P<table>\*|`(?:[^`]|``)+`) TO "
)
"""A line of SHOW GRANTS. The privileges of the user's active roles are in these lines, and in no other catalog."""

ALL = "ALL PRIVILEGES"
SHOWS_LOCKS = """
    SELECT COUNT(*) = 5 FROM (
        SELECT name FROM performance_schema.setup_instruments WHERE enabled = 'YES' AND
            (name = 'wait/lock/metadata/sql/mdl' OR name = 'transaction' AND timed = 'YES')
        UNION ALL SELECT name FROM performance_schema.setup_consumers WHERE enabled = 'YES' AND
            name IN ('events_transactions_current', 'global_instrumentation', 'thread_instrumentation')
    ) enabled
"""
RELATED = """
    SELECT %s UNION
    SELECT table_name FROM information_schema.key_column_usage
        WHERE table_schema = DATABASE() AND referenced_table_name = %s UNION
    SELECT referenced_table_name FROM information_schema.key_column_usage
        WHERE table_schema = DATABASE() AND table_name = %s AND referenced_table_name IS NOT NULL
"""
"""The table, and those that its foreign keys connect with it."""

HOLDERS = """
    SELECT t.processlist_id, t.processlist_user, e.timer_wait / 1000000000000, LEFT(t.processlist_info, 200)
    FROM performance_schema.events_transactions_current e JOIN performance_schema.threads t USING (thread_id)
    WHERE e.state = 'ACTIVE' AND e.timer_wait > 300000000000 AND t.processlist_id <> CONNECTION_ID()
        AND EXISTS (SELECT 1 FROM performance_schema.metadata_locks l WHERE l.owner_thread_id = e.thread_id
            AND l.lock_status = 'GRANTED' AND l.object_type = 'TABLE' AND l.object_schema = DATABASE()
            AND l.object_name IN ({}))
    ORDER BY e.timer_wait DESC
"""
# The start is a whole second, in the server's own time zone.
TRANSACTIONS = """
    SELECT /*+ SET_VAR(time_zone = 'SYSTEM') */ trx_mysql_thread_id, '',
        TIMESTAMPDIFF(MICROSECOND, trx_started, NOW(6)) / 1000000, LEFT(trx_query, 200)
    FROM information_schema.innodb_trx
    WHERE trx_started < NOW(6) - INTERVAL 1.3 SECOND AND trx_mysql_thread_id <> CONNECTION_ID() ORDER BY trx_started
"""
OF_DATA = (
    3140,  # invalid JSON
    3141,  # in an argument, too
    3143,  # an invalid path of JSON
    3156,  # JSON that cannot be converted
    3751,  # a value of a functional index is too long
    3752,  # or out of range
    3819,  # a check constraint
    3903,  # an invalid JSON value of a functional index
)
LONGEST_MESSAGE = 128


class MySQLCatalog(BaseMySQLCatalog):
    """The catalog of MySQL."""

    title = "MySQL"
    oldest = (8, 0, 19)
    part_of_index = "COALESCE(column_name, CONCAT('(', expression, ')'))"

    def checks(self, table: str) -> dict[str, str]:
        return {
            name: f"CHECK ({clause}){'' if enforced == 'YES' else ' NOT ENFORCED'}"
            for name, clause, enforced in self.rows(CHECKS, [table])
        }

    def check_names(self) -> CheckNames:
        return CopiedCheckNames({}, temporary_name)

    def default_of(self, default: str | None, extra: str, *, is_nullable: bool) -> str:
        if default is None:
            return ""
        return f"({default})" if "DEFAULT_GENERATED" in extra else repr(str(default))

    def refusals_of(self, derivation: Derivation) -> list[Refused]:
        plan = derivation.required_plan()
        constraints = derivation.new_model._meta.constraints
        wanted = {each.name.lower() for each in constraints if isinstance(each, CheckConstraint)}
        if not derivation.has_model and not plan.definition:
            # The server gives a copy's constraints new names, and renames them with the table if they are its own.
            wanted = {name.lower() for name in self.checks(plan.table) if not name.startswith(f"{plan.table}_chk_")}
        places = {name: table for name, table in self.rows(PLACES_OF_CHECKS) if name.lower() in wanted}
        kept = sorted(name for name, table in places.items() if table == plan.table)
        made = MySQLNames(self.db_alias, plan)
        others = sorted(
            f"{name} of {table}"
            for name, table in places.items()
            if table not in (plan.table, made.shadow_name, made.old_name)
        )
        found = super().refusals_of(derivation)
        if kept:
            found.append(
                Refused(
                    "online.check",
                    f"Table {plan.table!r} has check constraints that the new table would have, too "
                    f"({', '.join(kept)}). MySQL allows a name once in a database, and does not rename a check "
                    "constraint without copying the table. Remove them in a migration before this one, which is "
                    "instant, and add them again in this one.",
                )
            )
        if others:
            found.append(
                Refused(
                    "online.check",
                    f"Other tables have check constraints with names that the new table needs ({', '.join(others)}), "
                    "and MySQL allows a name once in a database. Clean up the earlier change, or choose other names.",
                )
            )
        return found

    def server_refusals(self, table: str) -> list[Refused]:
        found = super().server_refusals(table)
        mode = self.rows("SHOW GLOBAL VARIABLES LIKE 'group_replication_single_primary_mode'")
        if mode and mode[0][1] == "OFF":
            found.append(
                Refused(
                    "online.group_replication",
                    "group_replication_single_primary_mode is OFF; allowed: ON. With several primaries, the lock of a "
                    "table is that of one server only.",
                )
            )
        return found

    def privileges(self, table: str) -> set[str]:
        database, found = str(self.value("SELECT DATABASE()")), set()
        for (line,) in self.rows("SHOW GRANTS"):
            grant = GRANT.match(line)
            if grant is None or not is_like(database, _unquoted(grant["schema"])):
                continue
            privileges = set(NEEDED) if grant["privileges"] == ALL else set(grant["privileges"].split(", "))
            if grant["table"] == "*":
                found |= privileges
            elif _unquoted(grant["table"]) == table:
                # The change makes other tables, so the other privileges must be for the whole database.
                found |= privileges & {"TRIGGER"}
        return found


class MySQLLock(BaseMySQLLock):
    """The metadata lock of a table on MySQL, for which every statement waits for a second at least.

    A statement that alters or renames a table locks the tables that foreign keys connect with it, too.
    """

    has_quick_tries = False
    locked_tables: ClassVar[str] = RELATED

    def server_id(self) -> str:
        return str(self.value("SELECT CONCAT(@@server_uuid, '/', DATABASE())"))

    def old_transactions(self, table: str) -> Rows:
        with contextlib.suppress(DatabaseError):  # there is no privilege for performance_schema
            if self.value(SHOWS_LOCKS):
                return self.rows(HOLDERS.format(self.locked_tables), [table] * self.locked_tables.count("%s"))
        with contextlib.suppress(DatabaseError):  # there is no privilege PROCESS either
            return self.rows(TRANSACTIONS)
        return []


class MySQLTriggerLock(MySQLLock):
    """The metadata lock of a table on MySQL for its triggers, which no other table has."""

    locked_tables = "%s"


class MySQLRows(BaseMySQLRows):
    """The rows of one change on MySQL."""

    shared_lock = "FOR SHARE"


class MySQLTables(BaseMySQLTables):
    """The tables and triggers of one change on MySQL, where a trigger cannot be replaced without a gap.

    So the triggers stay as they are, and a second one of each event refuses the rows that the first one has logged.
    """

    lock_class = MySQLLock
    catalog_class = MySQLCatalog
    rows_class = MySQLRows
    data_errors = (*DATA_ERRORS, *OF_DATA)
    lenient_beginning = f"SET {REASON} = NULL; "

    def check_names(self) -> CheckNames:
        return CopiedCheckNames(
            _copies(MySQLCatalog(self.db_alias), self.names.origin_name, self.names.shadow_name), lambda name: name
        )

    def alter_triggers(self, sql: str) -> None:
        patiently(MySQLTriggerLock(self.db_alias), self.plan.table, lambda: self.execute(sql), self.limits)

    def trigger_names(self) -> list[str]:
        return [*self.names.refusing_triggers.values(), *super().trigger_names()]

    def create_triggers(self) -> None:
        self.drop_triggers()
        for event, text in self.texts(is_lenient=True).items():
            self.alter_triggers(f"CREATE TRIGGER {self.quote(self.names.triggers[event])} {text}")

    def make_strict(self) -> None:
        names, bodies, strict = self.names, self.bodies(), self.strict_events()
        for event, name in names.refusing_triggers.items():
            if event in strict:
                continue
            # The statement is repeated without a handler, for the sake of its error.
            self.alter_triggers(
                f"CREATE TRIGGER {self.quote(name)} AFTER {VERBS[event]} ON {names.origin} FOR EACH ROW "
                f"FOLLOWS {self.quote(names.triggers[event])} BEGIN {GONE}IF {REASON} IS NOT NULL THEN {bodies[event]} "
                f"SET {REASON} = LEFT({REASON}, {LONGEST_MESSAGE}); "
                f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = {REASON}; END IF; END"
            )

    def make_lenient(self) -> None:
        for event in self.strict_events():
            self.alter_triggers(f"DROP TRIGGER IF EXISTS {self.quote(self.names.refusing_triggers[event])}")

    def strict_events(self) -> list[str]:
        found = self.trigger_texts()
        return [event for event, name in self.names.refusing_triggers.items() if name in found]


class MySQLTrial(BaseMySQLTrial):
    """A trial of the operations on MySQL."""

    def check_names(self, table: str, clone: str) -> CheckNames:
        return CopiedCheckNames(_copies(MySQLCatalog(self.db_alias), table, clone), temporary_name)


def _copies(catalog: MySQLCatalog, table: str, copy: str) -> Mapping[str, str]:
    """Return the names that the check constraints of a table have on its copy."""
    left, found = catalog.checks(copy), {}
    for name, text in catalog.checks(table).items():
        found[name] = next(each for each, other in left.items() if other == text)
        del left[found[name]]
    return found


def _unquoted(name: str) -> str:
    return name if name == "*" else name[1:-1].replace("``", "`")


def is_like(database: str, pattern: str) -> bool:
    """Return whether a database is among those that a pattern of a privilege means."""
    if pattern == "*":
        return True
    parts = re.findall(r"\\?.", pattern, re.DOTALL)
    wildcards = {"%": ".*", "_": "."}
    expression = "".join(wildcards.get(part) or re.escape(part.removeprefix("\\")) for part in parts)
    return re.fullmatch(expression, database, re.DOTALL) is not None
