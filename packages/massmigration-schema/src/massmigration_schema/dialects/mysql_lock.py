"""`MySQLLock`: requests for the metadata lock of a table on MySQL and MariaDB, and the sessions that hold it."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

from django.db import DatabaseError, InterfaceError

from massmigration_schema.dialects.base import Rows, Statements
from massmigration_schema.locks import Answer, Blocker

TRANSACTIONS = """
    SELECT t.trx_mysql_thread_id, p.user, TIMESTAMPDIFF(MICROSECOND, t.trx_started, NOW(6)) / 1000000, LEFT(p.info, 200)
    FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
    WHERE t.trx_started < NOW(6) - INTERVAL 0.3 SECOND AND p.id <> CONNECTION_ID() {} ORDER BY t.trx_started
"""
OF_TABLE = """
    AND EXISTS (SELECT 1 FROM information_schema.metadata_lock_info l WHERE l.thread_id = p.id
        AND l.table_schema = DATABASE() AND l.table_name = %s)
"""


class MySQLLock(Statements):
    """The metadata lock of a table."""

    def attempt(self, call: Callable[[], Answer], *, is_quick: bool, max_stall: dt.timedelta) -> Answer:
        """Call something whose statements wait for locks briefly: not at all on MariaDB, or a second, the least."""
        connection: Any = self.connection
        least = 0 if connection.mysql_is_mariadb else 1
        wait = least if is_quick else max(1, int(max_stall.total_seconds()))
        before = self.rows("SELECT @@SESSION.lock_wait_timeout, @@SESSION.innodb_lock_wait_timeout")[0]
        self.execute(f"SET SESSION lock_wait_timeout = {wait}, innodb_lock_wait_timeout = {max(1, wait)}")
        try:
            return call()
        finally:
            with contextlib.suppress(DatabaseError):
                self.execute("SET SESSION lock_wait_timeout = %s, innodb_lock_wait_timeout = %s", list(before))

    @contextlib.contextmanager
    def definition_lock(self, tag: str) -> Iterator[bool]:
        """Take the lock that the session holds while it changes definitions, unless another session has it.

        It is lost with the connection. Yield whether it was taken.
        """
        name = [f"massmigration_schema_{tag}"]
        # The names of locks are the server's, and not the database's.
        expression = "CONCAT(%s, '_', LEFT(SHA1(DATABASE()), 12))"
        is_taken = self.value(f"SELECT GET_LOCK({expression}, 0)", name) == 1
        try:
            yield is_taken
        finally:
            if is_taken:
                with contextlib.suppress(DatabaseError, InterfaceError):
                    self.value(f"SELECT RELEASE_LOCK({expression})", name)

    def server_id(self) -> str:
        """Return what identifies the server and the database, so that a failover is noticed."""
        return str(self.value("SELECT CONCAT(@@hostname, '/', @@server_id, '/', DATABASE())"))

    def blockers(self, table: str) -> list[Blocker]:
        """Return the transactions of more than 0.3 seconds: those that use the table, if a plugin shows this.

        Without the privilege PROCESS, there are none to be seen.
        """
        return [
            Blocker(
                session=int(number), user=user or "", age=dt.timedelta(seconds=float(age)), statement=text or "idle"
            )
            for number, user, age, text in self._transactions(table)
        ]

    def _transactions(self, table: str) -> Rows:
        with contextlib.suppress(DatabaseError):  # there is no plugin metadata_lock_info
            return self.rows(TRANSACTIONS.format(OF_TABLE), [table])
        with contextlib.suppress(DatabaseError):  # there is no privilege
            return self.rows(TRANSACTIONS.format(""))
        return []
