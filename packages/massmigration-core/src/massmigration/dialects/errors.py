"""Classification of database errors: transient errors, and errors from a limit or a cancelled statement."""

from __future__ import annotations

import re

from django.db import DatabaseError, InterfaceError, InternalError, OperationalError

from massmigration import text

_CONTENTION = """
    40001    # serialization failure
    | 40P01  # deadlock
    | 55P03  # lock not available
"""
_UNAVAILABLE = """
    25006    # read-only: a standby, or during a failover
    | 53300  # too many connections
    | 57P03  # the server is starting
"""
_LOST = """
    08...    # connection
    | 25P03  # idle in transaction for too long
    | 57P0[^3]  # the server is shutting down, or an administrator ended the session
"""
_POSTGRESQL = re.compile("|".join((_CONTENTION, _UNAVAILABLE, _LOST)), re.VERBOSE)
_POSTGRESQL_LOST = re.compile(_LOST, re.VERBOSE)
_CANCELLED = "57014"  # by a user, or by statement_timeout: the text says which
_TRANSACTION_TIMEOUT = "25P04"
_BY_USER = "user request"

_MYSQL_LOST = frozenset(
    {
        0,  # the driver found its connection closed
        1053,  # the server is shutting down
        1927,  # the connection was killed
        2006,  # the server has gone away
        2013,  # lost connection during a query
        2055,
        4031,  # disconnected because of inactivity
    }
)
_MYSQL_CONFLICT = frozenset(
    {
        1020,  # the record has changed since the last read (MariaDB, snapshot isolation)
        1213,  # deadlock
        3101,  # a plugin rolled back at COMMIT: group replication, because another server has changed the same rows
    }
)
_MYSQL = (
    _MYSQL_LOST
    | _MYSQL_CONFLICT
    | {
        1040,  # too many connections
        1205,  # lock wait timeout
        1317,  # a user cancelled the query
        1836,  # the server is read-only
        2002,  # cannot connect
        2003,
        2005,  # the host's name cannot be resolved
        3572,  # a row is locked, and NOWAIT was requested (MySQL)
    }
)
_CONNECTOR = -1  # an error of mysql-connector-python itself
_MYSQL_IF = {
    _CONNECTOR: re.compile("Connection not available"),  # it found its connection closed
    1290: re.compile("read-only"),  # an option of the server refuses the statement: usually this one
    1305: re.compile("SAVEPOINT"),  # the savepoint is gone: the server has rolled back the transaction
}
_POSTGRESQL_CONFLICT = frozenset({"40001", "40P01"})
_POSTGRESQL_READ_ONLY = "25006"
_MYSQL_READ_ONLY = frozenset({1290, 1792, 1836})  # 1792: the transaction is
_POSTGRESQL_ACCESS_DENIED = "42501"
_MYSQL_ACCESS_DENIED = frozenset({1044, 1142, 1143, 1227, 1370})  # to a database, table, column, statement, routine
_SQLITE_READ_ONLY = re.compile("readonly database")
_MYSQL_CANCELLED = 1317
_MYSQL_TIMEOUTS = frozenset({1969, 3024})  # max_statement_time of MariaDB, max_execution_time of MySQL
_SQLITE = re.compile(r"database (table |schema )?is locked|unable to open database file")
_CONNECTION = re.compile(
    r"server closed the connection|connection (is|already|was|has been) (closed|lost)|terminating connection|"
    r"connection (refused|reset|timed out|failed|timeout expired)|consuming input failed|EOF detected|broken pipe|"
    r"SSL connection has been closed|no connection to the server|could not (connect|send|receive)|"
    r"the database system is|too many clients|connection slots are reserved|"
    r"timeout expired|No route to host|network is unreachable|"
    r"name resolution|name or service not known|could not translate host name|"
    r"couldn't get a connection|the pool '.*' is (already closed|not open)|"  # psycopg's pool
    r"server login has been failing",  # PgBouncer, of a server that is down
    re.IGNORECASE,
)


_GOOGLE = frozenset(
    {
        "Aborted",  # another transaction has written what this transaction has read
        "DeadlineExceeded",
        "ServiceUnavailable",
        "InternalServerError",
        "ResourceExhausted",
        "RetryError",
    }
)

_GOOGLE_ANSWER = re.compile("larger than max")
"""An answer that is too large for gRPC, which raises the class of an exhausted quota."""

_GOOGLE_COMMIT = re.compile(
    r"more than \d+ entities|maximum \d+ writes|(transaction|request)( is)? too (big|large)|"
    r"payload size exceeds|exceeds maximum size",
    re.IGNORECASE,
)
"""A commit that is too large: the limits are 500 entities and 10 MiB."""


def is_transient(error: BaseException) -> bool:
    """Return whether the same statement may succeed later, because the data did not cause the error."""
    if _is_of_google(error.__cause__ or error):
        return True
    # mysql-connector-python raises DatabaseError itself where other drivers raise OperationalError.
    # Other subclasses do not pass: a TransactionManagementError may follow a deadlock that the operation has swallowed.
    if type(error) is not DatabaseError and not isinstance(error, (OperationalError, InterfaceError, InternalError)):
        return False
    number, state = _codes(error)
    if number is not None:
        return number in _MYSQL or (number in _MYSQL_IF and bool(_MYSQL_IF[number].search(text.safe(error))))
    if not isinstance(error, (OperationalError, InterfaceError, InternalError)):
        return False
    if state:
        return bool(_POSTGRESQL.fullmatch(state)) or (state == _CANCELLED and _BY_USER in text.safe(error))
    message = text.safe(error)
    return bool(_SQLITE.search(message) or _CONNECTION.search(message))


def is_conflict(error: BaseException) -> bool:
    """Return whether the transaction was rolled back because of another transaction, by a deadlock for example.

    A second try need not wait for anything.
    """
    number, state = _codes(error)
    return number in _MYSQL_CONFLICT if number is not None else state in _POSTGRESQL_CONFLICT


def is_lost_connection(error: BaseException) -> bool:
    """Return whether a transient error says that an open connection was lost.

    If the server accepts a new connection at once, and that happens repeatedly, the statement itself is the cause.
    """
    number, state = _codes(error)
    if number is not None:
        return number in _MYSQL_LOST or (number == _CONNECTOR and is_transient(error))
    if state:
        return bool(_POSTGRESQL_LOST.fullmatch(state))
    return isinstance(error, (OperationalError, InterfaceError)) and bool(_CONNECTION.search(text.safe(error)))


def is_read_only(error: BaseException) -> bool:
    """Return whether the server, or the session, is read-only."""
    number, state = _codes(error)
    if number is not None:
        is_meant = _MYSQL_IF[number].search(text.safe(error)) if number in _MYSQL_IF else True
        return number in _MYSQL_READ_ONLY and bool(is_meant)
    if state:
        return state == _POSTGRESQL_READ_ONLY
    return isinstance(error, DatabaseError) and bool(_SQLITE_READ_ONLY.search(text.safe(error)))


def is_access_denied(error: BaseException) -> bool:
    """Return whether the database user lacks a privilege."""
    number, state = _codes(error)
    return number in _MYSQL_ACCESS_DENIED if number is not None else state == _POSTGRESQL_ACCESS_DENIED


def is_cancelled(error: BaseException) -> bool:
    """Return whether a transient error says that a user cancelled the statement."""
    number, state = _codes(error)
    return number == _MYSQL_CANCELLED or state == _CANCELLED


def is_timeout(error: BaseException) -> bool:
    """Return whether a limit on the duration of statements was exceeded.

    Such an error is not transient, but a smaller batch may be fast enough.
    """
    if not isinstance(error, DatabaseError):
        return False
    number, state = _codes(error)
    if number is not None:
        return number in _MYSQL_TIMEOUTS
    # The text of a user's request depends on the language of the server.
    return state == _TRANSACTION_TIMEOUT or (state == _CANCELLED and _BY_USER not in text.safe(error))


TIMEOUT_ADVICE = (
    "The statement took longer than the database allows (statement_timeout on PostgreSQL, max_statement_time on "
    "MariaDB, max_execution_time on MySQL), or waited for a lock for longer. Raise the limit for the user that runs "
    "mass migrations, or make the statement faster: check that an index serves the queryset."
)


def with_advice(error: Exception) -> Exception:
    """Return the error of a statement that took too long with `TIMEOUT_ADVICE`, and any other error as it is."""
    if not is_timeout(error):
        return error
    advised = type(error)(f"{text.safe(error).strip()}. {TIMEOUT_ADVICE}")
    advised.__cause__ = error
    return advised.with_traceback(error.__traceback__)


def _codes(error: BaseException) -> tuple[int | None, str | None]:
    """Return the error number of MySQL, or the SQLSTATE of PostgreSQL."""
    cause = error.__cause__ or error
    # Before the SQLSTATE, which PyMySQL has too, but without meaning for a lock wait timeout.
    if cause.args and isinstance(cause.args[0], int):
        return cause.args[0], None
    return None, getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)


def is_document_contention(error: BaseException | None) -> bool:
    """Return whether the error, or a cause of it, says that a document database refused a concurrent transaction."""
    while error is not None:
        if type(error).__module__ == "google.api_core.exceptions" and type(error).__name__ == "Aborted":
            return True
        error = error.__cause__
    return False


def is_too_large(error: BaseException | None) -> bool:
    """Return whether the error, or a cause of it, says that a document database refused the size of a batch."""
    while error is not None:
        if type(error).__module__ == "google.api_core.exceptions":
            return bool(_GOOGLE_ANSWER.search(str(error)) or _GOOGLE_COMMIT.search(str(error)))
        error = error.__cause__
    return False


def _is_of_google(cause: BaseException) -> bool:
    """Return whether this is a transient error of Datastore or Firestore. Their libraries may not be installed."""
    bases = type(cause).__mro__
    is_listed = any(base.__module__ == "google.api_core.exceptions" and base.__name__ in _GOOGLE for base in bases)
    return is_listed and not _GOOGLE_ANSWER.search(str(cause))
