"""The differences between databases. `dialect_of` returns the dialect of a database.

`engine_transaction` opens a transaction in which the engine writes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from massmigration import text
from massmigration.conf import settings
from massmigration.dialects.base import Dialect
from massmigration.dialects.documents import DocumentDialect
from massmigration.dialects.mariadb import MariaDBDialect
from massmigration.dialects.mysql import MySQLDialect
from massmigration.dialects.postgresql import PostgreSQLDialect
from massmigration.dialects.sqlite import SQLiteDialect
from massmigration.exceptions import InsideTransaction

logger = logging.getLogger(__name__)

DIALECTS: dict[str, type[Dialect]] = {
    "mysql": MySQLDialect,
    "postgresql": PostgreSQLDialect,
    "sqlite": SQLiteDialect,
}
"""By the `vendor` of Django's database wrapper. Any other vendor has the defaults of `Dialect`."""

DOCUMENT_ENGINES = "gcloudc."
"""The beginning of the module names of document database engines."""


def dialect_of(db_alias: str) -> Dialect:
    """Return the dialect of a database. On MySQL and MariaDB this may connect to the server, to ask which it is."""
    return dialect_for(connections[db_alias])


def dialect_for(connection: BaseDatabaseWrapper) -> Dialect:
    """Return the dialect of a connection's database."""
    return _class_for(connection)(connection)


def _class_for(connection: BaseDatabaseWrapper) -> type[Dialect]:
    if _is_of_document_database(connection):
        return DocumentDialect
    if connection.vendor == "mysql" and connection.mysql_is_mariadb:  # type: ignore[attr-defined]  # of MySQL's wrapper
        return MariaDBDialect
    return DIALECTS.get(connection.vendor, Dialect)


def is_document_database(db_alias: str) -> bool:
    """Return whether a database is a document database. Nothing is asked of its server."""
    return _is_of_document_database(connections[db_alias])


def _is_of_document_database(connection: BaseDatabaseWrapper) -> bool:
    engine: Any = type(connection)  # for mypy, a class is not hashable
    return is_document_engine(engine)


@cache
def is_document_engine(engine: type[Any]) -> bool:
    """Return whether a class of database wrappers is that of a document database."""
    return any(base.__module__.startswith(DOCUMENT_ENGINES) for base in engine.__mro__)


@contextlib.contextmanager
def engine_transaction(
    db_alias: str,
    *,
    durable: bool = True,
    idle_limit: dt.timedelta | None = None,
    lock_wait: dt.timedelta | None = None,
    on_hook_errors: Callable[[list[Exception]], None] | None = None,
) -> Iterator[None]:
    """Open a transaction. Each function that `on_commit` registers in it is called, whatever the others raise.

    `durable`: raise `InsideTransaction` within a transaction of the caller, instead of becoming a part of it.
    `idle_limit`: the server ends the transaction if it is idle for longer, so that the row locks of a frozen worker
    do not block others (default: `MASSMIGRATION_IDLE_LIMIT`).
    `lock_wait`: how long a statement waits for a row lock (default: the server's own limit).
    `on_hook_errors`: called after the registered functions with what they raised, if one raised.
    """
    connection = connections[db_alias]
    if connection.in_atomic_block:  # a transaction of the caller, or of Django's TestCase
        with _nested(db_alias, durable=durable):
            yield
        return
    with dialect_of(db_alias).transaction(idle_limit=idle_limit or settings.IDLE_LIMIT, lock_wait=lock_wait):
        yield
        _isolate_hooks(connection, on_hook_errors)


def _isolate_hooks(connection: BaseDatabaseWrapper, on_errors: Callable[[list[Exception]], None] | None) -> None:
    """Wrap the functions that are called after the commit, so that one that raises does not prevent the others."""
    raised: list[Exception] = []

    def isolated(hook: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            try:
                hook()
            except Exception as error:
                if not raised:  # a batch may have thousands
                    message = "%s, registered with on_commit, raised an exception. The transaction is committed."
                    logger.error(message, text.safe_repr(hook), exc_info=text.logged(error))
                raised.append(error)

        return call

    def report() -> None:
        if raised and on_errors:
            on_errors(raised)

    hooks: list[Any] = connection.run_on_commit
    kept: list[Any] = [(sids, isolated(hook), *rest) for sids, hook, *rest in hooks]
    if kept:
        kept.append((set(), report, False))
    connection.run_on_commit = kept


@contextlib.contextmanager
def _nested(db_alias: str, *, durable: bool) -> Iterator[None]:
    """Open a savepoint in the present transaction, unless it must be `durable`."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(transaction.atomic(using=db_alias, durable=durable))
        except RuntimeError as error:
            raise InsideTransaction(
                f"This cannot be called within a transaction on database {db_alias!r}, because it waits for batches to "
                "end and must commit by itself. Call it outside of transaction.atomic(); a view with ATOMIC_REQUESTS "
                "needs transaction.non_atomic_requests."
            ) from error
        yield
