"""Which database errors say nothing about the data: deadlocks, lost connections, a busy database."""

from __future__ import annotations

import re

from django.db import InterfaceError, InternalError, OperationalError

_POSTGRESQL = re.compile(
    r"""
    40001    # serialization failure
    | 40P01  # deadlock
    | 55P03  # lock not available
    | 25P03  # idle in transaction for too long
    | 57P0.  # the server is shutting down or starting
    | 08...  # connection
    | 53300  # too many connections
    """,
    re.VERBOSE,
)
_MYSQL = frozenset(
    {
        0,  # the driver found its connection closed
        1020,  # the record has changed since the last read (MariaDB, snapshot isolation)
        1040,  # too many connections
        1053,  # the server is shutting down
        1205,  # lock wait timeout
        1213,  # deadlock
        1305,  # the savepoint is gone: the server has rolled the whole transaction back
        1927,  # the connection was killed
        2002,  # cannot connect
        2003,
        2005,  # the host's name cannot be resolved
        2006,  # the server has gone away
        2013,  # lost connection during a query
        2055,
        4031,  # disconnected because of inactivity
    }
)
_SQLITE = re.compile(r"database (table |schema )?is locked|unable to open database file")
_CONNECTION = re.compile(
    r"server closed the connection|connection (is|already|was|has been) (closed|lost)|terminating connection|"
    r"connection (refused|reset|timed out|failed|timeout expired)|consuming input failed|EOF detected|broken pipe|"
    r"SSL connection has been closed|no connection to the server|could not (connect|send|receive)|"
    r"the database system is|too many clients|connection slots are reserved|"
    r"timeout expired|No route to host|network is unreachable|"
    r"name resolution|name or service not known|could not translate host name|"
    r"server login has been failing",  # as PgBouncer says of a server that is away
    re.IGNORECASE,
)


_GOOGLE = frozenset(
    {
        "Aborted",  # another transaction has written what this one has read
        "DeadlineExceeded",
        "ServiceUnavailable",
        "InternalServerError",
        "ResourceExhausted",
        "RetryError",
    }
)


def is_transient(error: BaseException) -> bool:
    """Whether doing the same again may well succeed."""
    if _is_of_google(error.__cause__ or error):
        return True
    if not isinstance(error, (OperationalError, InterfaceError, InternalError)):
        return False
    cause = error.__cause__ or error
    # Before the SQLSTATE, which PyMySQL has too: that of a lock wait timeout says nothing.
    if cause.args and isinstance(cause.args[0], int):
        return cause.args[0] in _MYSQL
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state:
        return bool(_POSTGRESQL.fullmatch(state))
    text = str(error)
    return bool(_SQLITE.search(text) or _CONNECTION.search(text))


def _is_of_google(cause: BaseException) -> bool:
    """Datastore and Firestore: by names, for their libraries may not be installed."""
    bases = type(cause).__mro__
    return any(base.__module__ == "google.api_core.exceptions" and base.__name__ in _GOOGLE for base in bases)
