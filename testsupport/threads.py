"""Threads with database connections of their own, which stop where a test wants them to."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.db import connections

from testsupport.database_servers import DATABASE_SERVERS
from testsupport.db_sessions import finds, pause_between_looks

PATIENCE = 300.0
"""Seconds that a test waits for an event: long for a busy machine, and less than the time limit of a test."""

_pool = ThreadPoolExecutor(16, thread_name_prefix="in-thread")


class Gate:
    """A place where threads wait until the test opens it."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._arrivals = threading.Semaphore(0)

    def wait(self) -> None:
        """Block the calling thread until the test opens the gate."""
        self._arrivals.release()
        assert self._opened.wait(PATIENCE), "The gate was never opened."

    def await_arrivals(self, count: int = 1) -> None:
        """Wait until this many threads have reached the gate."""
        for _ in range(count):
            assert self._arrivals.acquire(timeout=PATIENCE), "No thread reached the gate."

    def open(self) -> None:
        self._opened.set()


def in_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in another thread, with connections of its own."""

    def run() -> Any:
        try:
            return call(*args, **kwargs)
        finally:
            connections.close_all()

    return _pool.submit(run)


def in_threads(calls: list[Callable[[], Any]], *, patience: float = PATIENCE) -> list[Any]:
    """Call all functions at the same moment, each in a thread; return their results and exceptions."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE)
        return call()

    futures = [in_thread(run, call) for call in calls]
    return [future.exception(patience) or future.result() for future in futures]


@contextlib.contextmanager
def blocked_at_statement(db_alias: str, pattern: str, gate: Gate) -> Iterator[None]:
    """Block this thread before the first statement that matches."""
    waiting = [gate]

    def hold(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if waiting and re.search(pattern, sql):
            waiting.pop().wait()
        return execute(sql, params, many, context)

    with connections[db_alias].execute_wrapper(hold):
        yield


@contextlib.contextmanager
def blocked_at_commit(db_alias: str, pattern: str, gate: Gate) -> Iterator[None]:
    """Block this thread before the COMMIT of the first transaction that contains a matching statement."""
    connection = connections[db_alias]
    commit, waiting, seen = connection.commit, [gate], []

    def look(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if re.search(pattern, sql):
            seen.append(sql)
        return execute(sql, params, many, context)

    def hold() -> None:
        if waiting and seen:
            waiting.pop().wait()
        commit()

    connection.commit = hold
    try:
        with connection.execute_wrapper(look):
            yield
    finally:
        del connection.commit


def wait_until_blocked(db_alias: str) -> None:
    """Wait until a transaction waits for a lock of another."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if finds(db_alias, DATABASE_SERVERS[db_alias].waiting_session):
            return
        pause_between_looks(db_alias)
    raise AssertionError("No session waits for a lock.")
