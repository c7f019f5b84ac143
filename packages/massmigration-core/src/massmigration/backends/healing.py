"""Sends whatever is stuck again: the one way out of every way to get stuck."""

from __future__ import annotations

import logging
import threading
import time

from django.db import DatabaseError, InterfaceError

from massmigration.backends import handler
from massmigration.conf import settings
from massmigration.recorder import due

logger = logging.getLogger(__name__)

_last: dict[str, float] = {}
_lock = threading.Lock()


def heal(db_alias: str) -> int:
    """Send every item of this database that is stuck and that no other healer sends. Return how many.

    Stuck are: plan messages that were lost, shards that nobody claimed or whose lease has expired,
    stages that are done but that nobody looked at, and next stages that were never planned.
    """
    taken = due.take(db_alias)
    for item in taken:
        logger.info("Migration %s on database %s: sending its %s again.", item.job.key, db_alias, item.job.what)
        try:
            handler.backend_of_job(item.job.key, item.backend).enqueue(item.job)
        except Exception:  # a backend's parameters may be the project's code, and others are stuck, too
            logger.exception("Could not send %s.", item.job)
    return len(taken)


def is_time(what: str) -> bool:
    """Whether a lease has passed since this has last said so in this process."""
    with _lock:
        now = time.monotonic()
        if now - _last.get(what, float("-inf")) < settings.LEASE.total_seconds():
            return False
        _last[what] = now
        return True


def heal_now_and_then(db_alias: str) -> None:
    """`heal`, at most once a lease in this process; errors are logged, for it runs beside other work."""
    if not is_time(db_alias):
        return
    try:
        heal(db_alias)
    except (DatabaseError, InterfaceError):
        logger.warning("Healing on database %s failed; it is tried again later.", db_alias, exc_info=True)
