"""`BaseMySQLLock`: requests for the metadata lock of a table on MySQL and MariaDB, and the sessions that hold it."""

from __future__ import annotations

import contextlib
import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from django.db import DatabaseError, InterfaceError

from massmigration_schema.dialects.base import Rows, Statements
from massmigration_schema.locks import Answer, Blocker


class BaseMySQLLock(Statements, ABC):
    """The metadata lock of a table on MySQL and MariaDB."""

    has_quick_tries: bool

    def attempt(self, call: Callable[[], Answer], *, is_quick: bool, max_stall: dt.timedelta) -> Answer:
        """Call something whose statements wait for locks briefly: a second, the least, or not at all."""
        wait = 0 if is_quick and self.has_quick_tries else max(1, int(max_stall.total_seconds()))
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
        expression = "CONCAT(%s, '_', LEFT(SHA2(DATABASE(), 256), 12))"
        is_taken = self.value(f"SELECT GET_LOCK({expression}, 0)", name) == 1
        try:
            yield is_taken
        finally:
            if is_taken:
                with contextlib.suppress(DatabaseError, InterfaceError):
                    self.value(f"SELECT RELEASE_LOCK({expression})", name)

    @abstractmethod
    def server_id(self) -> str:
        """Return what identifies the server and the database, so that a failover is noticed."""

    def blockers(self, table: str) -> list[Blocker]:
        """Return the transactions of more than 0.3 seconds: those that use the table, if the server shows this."""
        return [
            Blocker(
                session=int(number), user=user or "", age=dt.timedelta(seconds=float(age)), statement=text or "idle"
            )
            for number, user, age, text in self.old_transactions(table)
        ]

    @abstractmethod
    def old_transactions(self, table: str) -> Rows:
        """Return session, user, age in seconds and statement of these transactions, the oldest first.

        Without privileges, there are none to be seen.
        """
