"""Asks a database server what its sessions are in the middle of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from django.conf import settings
from django.db import connections

SETTLES = 0.15
"""Seconds after which the server has done what a frozen process had sent, and MariaDB has looked again at its own."""

# A write to a table of the test app shows as a lock on it.
POSTGRESQL = """
    SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE pid = ANY(%s) AND state = 'idle in transaction' AND mode = 'RowExclusiveLock'
    AND relation IN ('testapp_item'::regclass, 'testapp_call'::regclass)
"""
# The first row that a batch modifies is its shard's.
MARIADB = "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id IN %s AND trx_rows_modified > 1"


def have_uncommitted_work(db_alias: str, sessions: Sequence[int]) -> bool:
    """Whether one of these sessions has a transaction open in which an operation has written.

    SQLite knows no sessions: whether anybody has written, which is the only worker.
    """
    if connections[db_alias].vendor == "sqlite":
        journal = Path(f"{settings.DATABASES[db_alias]['NAME']}-journal")
        return journal.exists() and journal.stat().st_size > 0
    if not sessions:
        return False
    with connections[db_alias].cursor() as cursor:
        if db_alias == "postgresql":
            cursor.execute(POSTGRESQL, [list(sessions)])
        else:
            cursor.execute(MARIADB, [tuple(sessions)])
        return bool(cursor.fetchone()[0])
