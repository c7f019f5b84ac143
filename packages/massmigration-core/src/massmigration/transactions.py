"""The engine's transactions: durable, started for writing, and ended by the server when they sit idle."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from massmigration.conf import settings
from massmigration.exceptions import InsideTransaction


@contextlib.contextmanager
def engine_transaction(
    db_alias: str,
    *,
    durable: bool = True,
    idle_limit: dt.timedelta | None = None,
    lock_wait: dt.timedelta | None = None,
) -> Iterator[None]:
    """One transaction.

    `durable`: refuse to be a part of the caller's transaction, with `InsideTransaction`.
    `idle_limit`: the server ends it when it sits idle for longer, so that the row locks of a frozen
    worker do not block the others for ever (default: `MASSMIGRATION_IDLE_LIMIT`).
    `lock_wait`: how long a statement waits for a row lock (default: the server's own limit).
    """
    connection = connections[db_alias]
    if connection.in_atomic_block:  # the caller's transaction, or the one that Django's TestCase puts around a test
        with _within(db_alias, durable=durable):
            yield
        return
    limits = _limits(connection, idle_limit or settings.IDLE_LIMIT, lock_wait)
    with contextlib.ExitStack() as stack:
        if connection.vendor == "mysql":
            stack.enter_context(_session_limits(connection, limits))
            _read_committed(connection)
        with _begin_immediate(connection):
            stack.enter_context(transaction.atomic(using=db_alias, durable=True))
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                for name, milliseconds in limits.items():
                    cursor.execute(f"SET LOCAL {name} = {milliseconds}")
        yield


@contextlib.contextmanager
def _within(db_alias: str, *, durable: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(transaction.atomic(using=db_alias, durable=durable))
        except RuntimeError as error:
            raise InsideTransaction(
                f"This cannot be done within a transaction on database {db_alias!r}: it waits for batches to end, and "
                "must commit by itself. Call it outside of transaction.atomic(); a view with ATOMIC_REQUESTS needs "
                "transaction.non_atomic_requests."
            ) from error
        yield


def _limits(connection: BaseDatabaseWrapper, idle: dt.timedelta, lock_wait: dt.timedelta | None) -> dict[str, int]:
    """The server's own variables, in the server's own units."""
    if connection.vendor == "postgresql":
        limits = {"idle_in_transaction_session_timeout": _milliseconds(idle)}
        return limits | ({"lock_timeout": _milliseconds(lock_wait)} if lock_wait else {})
    if connection.vendor == "mysql":
        # MySQL proper has no limit on idle transactions.
        limits = {"idle_transaction_timeout": _seconds(idle)} if _is_mariadb(connection) else {}
        return limits | ({"innodb_lock_wait_timeout": _seconds(lock_wait)} if lock_wait else {})
    return {}


def _milliseconds(duration: dt.timedelta) -> int:
    return max(1, round(duration.total_seconds() * 1000))


def _seconds(duration: dt.timedelta) -> int:
    return max(1, round(duration.total_seconds()))


def _is_mariadb(connection: BaseDatabaseWrapper) -> bool:
    return bool(getattr(connection, "mysql_is_mariadb", False))


@contextlib.contextmanager
def _session_limits(connection: BaseDatabaseWrapper, limits: dict[str, int]) -> Iterator[None]:
    """Set session variables, and set them back to what they were."""
    if limits:
        with connection.cursor() as cursor:
            keep = ", ".join(f"@massmigration_{name} = @@SESSION.{name}" for name in limits)
            cursor.execute(f"SET {keep}")
            cursor.execute("SET " + ", ".join(f"SESSION {name} = {value}" for name, value in limits.items()))
    try:
        yield
    finally:
        # A connection that was lost takes its session variables along; the next one has the defaults.
        with contextlib.suppress(DatabaseError):
            if limits and connection.connection is not None:
                _restore(connection.cursor(), limits)


def _read_committed(connection: BaseDatabaseWrapper) -> None:
    """Let the next transaction read what is committed when it reads, as Django's default has it.

    Else it would go on to read rows as they were when it began, even those that it had to wait for.
    """
    if getattr(connection, "isolation_level", None) != "read committed":
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")


def _restore(cursor: CursorWrapper, limits: dict[str, int]) -> None:
    with cursor:
        cursor.execute("SET " + ", ".join(f"SESSION {name} = @massmigration_{name}" for name in limits))


@contextlib.contextmanager
def _begin_immediate(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """On SQLite, take the write lock at BEGIN: a lock upgrade in mid-transaction fails at once."""
    if connection.vendor != "sqlite":
        yield
        return
    # The method Django calls to begin; an option for this exists only since Django 5.1.
    connection._start_transaction_under_autocommit = lambda: connection.cursor().execute("BEGIN IMMEDIATE")  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del connection._start_transaction_under_autocommit  # type: ignore[attr-defined]
