"""Threads with database connections of their own, which stop where a test wants them to."""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django.db import connections

PATIENCE = 30.0
_pool = ThreadPoolExecutor(16, thread_name_prefix="aside")


class Gate:
    """A place where threads wait until the test opens it."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._arrivals = threading.Semaphore(0)

    def wait(self) -> None:
        """Called by what is to be held."""
        self._arrivals.release()
        assert self._opened.wait(PATIENCE), "The gate was never opened."

    def await_arrivals(self, count: int = 1) -> None:
        """Wait until so many threads stand before the gate."""
        for _ in range(count):
            assert self._arrivals.acquire(timeout=PATIENCE), "Nobody came to the gate."

    def open(self) -> None:
        self._opened.set()


def aside(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call it in another thread, with connections of its own."""

    def run() -> Any:
        try:
            return call(*args, **kwargs)
        finally:
            connections.close_all()

    return _pool.submit(run)


def aside_together(calls: list[Callable[[], Any]]) -> list[Any]:
    """Call all at the same moment, each in a thread; return what they return, or raise."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(PATIENCE)
        return call()

    futures = [aside(run, call) for call in calls]
    return [future.exception(PATIENCE) or future.result() for future in futures]


@contextlib.contextmanager
def held_at_statement(db_alias: str, pattern: str, gate: Gate) -> Iterator[None]:
    """Hold this thread before the first statement that matches."""
    waiting = [gate]

    def hold(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if waiting and re.search(pattern, sql):
            waiting.pop().wait()
        return execute(sql, params, many, context)

    with connections[db_alias].execute_wrapper(hold):
        yield


@contextlib.contextmanager
def held_at_commit(db_alias: str, pattern: str, gate: Gate) -> Iterator[None]:
    """Hold this thread before the COMMIT of the first transaction that has a statement that matches."""
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
    """Wait until some transaction waits for a lock of another."""
    question = {
        "postgresql": "SELECT count(*) FROM pg_locks WHERE NOT granted",
        "mariadb": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    }[db_alias]
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with connections[db_alias].cursor() as cursor:
            cursor.execute(question)
            if cursor.fetchone()[0]:
                return
        # MariaDB looks again when nobody has asked for a tenth of a second, other tests' sessions included.
        time.sleep(random.uniform(0.11, 0.5))
    raise AssertionError("Nobody waits for a lock.")


def session(db_alias: str) -> int:
    """What the server calls this thread's connection."""
    with connections[db_alias].cursor() as cursor:
        cursor.execute({"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}[db_alias])
        return int(cursor.fetchone()[0])


def end_session(db_alias: str, number: int) -> None:
    """End a session of another thread, and wait until its transaction is gone."""
    end, question = {
        "postgresql": ("SELECT pg_terminate_backend(%s)", "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"),
        "mariadb": (
            "KILL CONNECTION %s",
            "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = %s",
        ),
    }[db_alias]
    with connections[db_alias].cursor() as cursor:
        cursor.execute(end, [number])
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(0.11)
            cursor.execute(question, [number])
            if not cursor.fetchone()[0]:
                return
    raise AssertionError("The session does not end.")
