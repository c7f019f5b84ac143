"""Concurrent changes to a database on which a migration runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from django.db import connections

from testsupport.database_servers import DATABASE_SERVERS
from testsupport.db_sessions import finds, pause_between_looks
from testsupport.threads import PATIENCE


def elsewhere(call: Callable[[], Any], *, wait: float = 0) -> threading.Thread:
    """Start a thread that runs `call` on connections of its own. Return it, after at most `wait` seconds."""

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


def end_session(db_alias: str, session: int) -> None:
    """Have the server end a session, and wait until the session and its transaction are gone."""
    server = DATABASE_SERVERS[db_alias]

    def end() -> None:
        with connections[db_alias].cursor() as cursor:
            cursor.execute(server.end_session, [session])
        until = time.monotonic() + PATIENCE
        while finds(db_alias, server.session, session) and time.monotonic() < until:
            time.sleep(0.01)

    elsewhere(end).join(PATIENCE)


def wait_for_waiter(db_alias: str, timeout: float = PATIENCE) -> None:
    """Wait until some session waits for a row lock."""
    found = threading.Event()

    def look() -> None:
        until = time.monotonic() + timeout
        while time.monotonic() < until and not found.is_set():
            if finds(db_alias, DATABASE_SERVERS[db_alias].waiting_session):
                found.set()
            else:
                pause_between_looks(db_alias)

    # In a session of its own: this one may be in a transaction.
    elsewhere(look).join(timeout + 1)
    if not found.is_set():
        raise TimeoutError("No session waits for a lock.")


@contextlib.contextmanager
def answer_lost(db_alias: str, error: Exception, *, at: int) -> Iterator[list[int]]:
    """Lose the answer of the commit numbered `at`, which succeeds. Yield the numbers of the commits so far."""
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
