"""What others do to a database while a migration works on it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connections


def elsewhere(call: Callable[[], Any], *, wait: float = 0) -> threading.Thread:
    """Call it in a thread, with a connection of its own. Return the thread, after `wait` seconds at most."""

    def run() -> None:
        try:
            call()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if wait:
        thread.join(wait)
    return thread


def session_id(db_alias: str) -> int:
    """Return what the server calls this thread's connection."""
    with connections[db_alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()" if db_alias == "postgresql" else "SELECT connection_id()")
        return int(cursor.fetchone()[0])


def end_session(db_alias: str, session: int) -> None:
    """Let the server end a session, and wait until it is gone."""
    listed = {
        "postgresql": "SELECT 1 FROM pg_stat_activity WHERE pid = %s",
        "mariadb": "SELECT 1 FROM information_schema.processlist WHERE id = %s",
    }
    ended = {"postgresql": "SELECT pg_terminate_backend(%s)", "mariadb": "KILL CONNECTION %s"}

    def end() -> None:
        with connections[db_alias].cursor() as cursor:
            cursor.execute(ended[db_alias], [session])
            for _ in range(500):
                cursor.execute(listed[db_alias], [session])
                if cursor.fetchone() is None:
                    return
                time.sleep(0.01)

    elsewhere(end).join(10)


def wait_for_waiter(db_alias: str, timeout: float = 5) -> None:
    """Wait until some session waits for a row lock."""
    waiting = {
        "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
        "mariadb": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    }
    found = threading.Event()

    def look() -> None:
        until = time.monotonic() + timeout
        with connections[db_alias].cursor() as cursor:
            while time.monotonic() < until and not found.is_set():
                cursor.execute(waiting[db_alias])
                if cursor.fetchone():
                    found.set()
                # MariaDB makes the table anew when nobody has read it for 100 ms, other tests' sessions included.
                time.sleep(0.02 if db_alias == "postgresql" else random.uniform(0.12, 0.5))

    # In a session of its own: PostgreSQL shows a transaction the same activity all the time.
    elsewhere(look).join(timeout + 1)
    if not found.is_set():
        raise TimeoutError("Nobody waits for a lock.")


@contextlib.contextmanager
def answer_lost(db_alias: str, error: Exception, *, at: int) -> Iterator[list[int]]:
    """Let the commit numbered `at` succeed, and its answer be lost. Yield the commits counted."""
    connection = connections[db_alias]
    commits: list[int] = []
    original = connection._commit

    def commit() -> None:
        original()
        commits.append(len(commits) + 1)
        if commits[-1] == at:
            raise error

    connection._commit = commit
    try:
        yield commits
    finally:
        del connection._commit
