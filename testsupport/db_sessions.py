"""The sessions of a database server, and the transactions that they have open."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings
from django.db import connections

from testsupport.database_servers import DATABASE_SERVERS

SETTLES = 0.15
"""Seconds after which the server has done what a frozen process had sent, and InnoDB has looked again at its own."""


def pause_between_looks(db_alias: str) -> None:
    """Wait until the server looks again at what its sessions do."""
    time.sleep(random.uniform(*DATABASE_SERVERS[db_alias].looks_again))


def finds(db_alias: str, query: str, *parameters: int) -> bool:
    """Return whether a query of `DatabaseServer` has a row."""
    with connections[db_alias].cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone() is not None


def session_id(db_alias: str) -> int:
    """Return the server's number of this thread's connection."""
    with connections[db_alias].cursor() as cursor:
        cursor.execute(DATABASE_SERVERS[db_alias].own_session)
        return int(cursor.fetchone()[0])


def have_uncommitted_work(db_alias: str, sessions: Sequence[int]) -> bool:
    """Return whether one of these sessions has an open transaction in which an operation has written.

    SQLite knows no sessions: whether anybody has written, which is the only worker.
    """
    if db_alias not in DATABASE_SERVERS:
        journal = Path(f"{settings.DATABASES[db_alias]['NAME']}-journal")
        return journal.exists() and journal.stat().st_size > 0
    if not sessions:
        return False
    with connections[db_alias].cursor() as cursor:
        cursor.execute(*DATABASE_SERVERS[db_alias].uncommitted_work(sessions))
        return bool(cursor.fetchone()[0])
