"""The functions that an adapter's workers call."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from django.db import DatabaseError, InterfaceError, close_old_connections, connections

from massmigration import text
from massmigration.backends import handler, worker
from massmigration.backends.base import BaseBackend
from massmigration.backends.worker import perform
from massmigration.exceptions import BadPayload
from massmigration.jobs import Job
from massmigration.loader import store

__all__ = ["backend_of", "backends", "perform", "recover", "recover_if_due"]

logger = logging.getLogger(__name__)

WORKER = "(worker)"
"""The name under which recovery notes the last call of `recover`. No database has such an alias."""


def backend_of(payload: str) -> BaseBackend:
    """Return the backend of a payload's migration, or the backend of the settings if the payload is not a job.

    Raise `BadBackend` if there is none.
    """
    try:
        key = Job.loads(payload).key
    except BadPayload:
        key = ""
    return handler.backend_of_job(key, "")


def backends() -> Iterator[BaseBackend]:
    """Yield every backend that `backend_of` may return: that of the settings, and the backends of migrations.

    Raise `BadBackend` if the backend of the settings cannot be made. Skip others that cannot.
    """
    yield handler.get_backend()
    for migration in store.by_key.values():
        try:
            own = handler.backend_of(migration)
        except Exception:  # backend_params may be the project's code; a system check reports the error
            continue
        yield own


def recover(*, at_most_once_a_lease: bool = False) -> int:
    """Send what is stuck on any database again. Return the number of jobs. Call it when a worker starts, or on a timer.

    With `at_most_once_a_lease`, do nothing if this process has run recovery within the last lease.
    Databases that cannot be read, or have no tables for mass migrations, are logged and skipped.
    """
    if at_most_once_a_lease and not worker.is_due(WORKER):
        return 0
    close_old_connections()
    sent = 0
    try:
        for db_alias in connections:
            try:
                sent += worker.recover(db_alias)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("Recovery skipped database %s: %s", db_alias, text.line(error))
    finally:
        close_old_connections()
    return sent


def recover_if_due() -> None:
    """Run `recover` at most once a lease, log its errors, and close all connections of this thread.

    For a worker that is idle, or a thread beside its jobs: call it every few seconds. Connections are closed because
    a process that is forked later would inherit them.
    """
    try:
        try:
            recover(at_most_once_a_lease=True)
        finally:
            connections.close_all()
    except Exception:
        logger.exception("Recovery failed. It will run again later.")
