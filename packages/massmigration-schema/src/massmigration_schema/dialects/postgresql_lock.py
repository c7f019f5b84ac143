"""`PostgreSQLLock`: requests for the lock of a whole table, and the sessions that hold it."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator

from django.db import DatabaseError, InterfaceError, transaction

from massmigration_schema.dialects.base import Statements
from massmigration_schema.locks import Answer, Blocker

QUICK = dt.timedelta(milliseconds=50)
LONGEST = dt.timedelta(milliseconds=250)
"""How long one try waits, unless `max_stall` is shorter."""

BLOCKERS = """
    SELECT a.pid, a.usename, extract(epoch FROM clock_timestamp() - a.xact_start), left(a.query, 200)
    FROM pg_stat_activity a WHERE a.pid <> pg_backend_pid() AND a.xact_start < clock_timestamp() - interval '0.3 s'
        AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.relation = to_regclass(%s)
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    ORDER BY a.xact_start
"""


class PostgreSQLLock(Statements):
    """The lock of a table on PostgreSQL, where a try is a transaction or a savepoint."""

    has_quick_tries = True

    def attempt(self, call: Callable[[], Answer], *, is_quick: bool, max_stall: dt.timedelta) -> Answer:
        """Call something in a transaction, or in a savepoint of the open one, that waits for locks briefly."""
        wait = QUICK if is_quick else min(LONGEST, max_stall)
        with transaction.atomic(using=self.db_alias):
            before = self.value("SELECT current_setting('lock_timeout')")
            self.rows("SELECT set_config('lock_timeout', %s, true)", [f"{round(wait.total_seconds() * 1000)}ms"])
            answer = call()
            self.rows("SELECT set_config('lock_timeout', %s, true)", [before])
        return answer

    @contextlib.contextmanager
    def definition_lock(self, tag: str) -> Iterator[bool]:
        """Take the lock that the session holds while it changes definitions, unless another session has it.

        It is lost with the connection. Yield whether it was taken.
        """
        arguments = [0x6D6D, int(tag, 16)]
        is_taken = bool(self.value("SELECT pg_try_advisory_lock(%s, %s)", arguments))
        try:
            yield is_taken
        finally:
            if is_taken:
                with contextlib.suppress(DatabaseError, InterfaceError):
                    self.rows("SELECT pg_advisory_unlock(%s, %s)", arguments)

    def server_id(self) -> str:
        """Return what identifies the server and the database, so that a failover is noticed."""
        server, database = self.rows(
            "SELECT (SELECT system_identifier FROM pg_control_system()), oid::bigint FROM pg_database "
            "WHERE datname = current_database()"
        )[0]
        return f"{server}/{database}"

    def blockers(self, table: str) -> list[Blocker]:
        """Return the sessions with a transaction of more than 0.3 seconds that has a lock of the table."""
        # Within a transaction, the server would show the same activity all the time.
        self.rows("SELECT pg_stat_clear_snapshot()")
        found = self.rows(BLOCKERS, [self.connection.ops.quote_name(table)])
        return [
            Blocker(session=pid, user=user or "", age=dt.timedelta(seconds=float(age)), statement=statement)
            for pid, user, age, statement in found
        ]
