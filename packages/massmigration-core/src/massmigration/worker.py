"""What an adapter's workers call."""

from __future__ import annotations

import contextlib
import logging

from django.db import DatabaseError, InterfaceError, close_old_connections, connections
from django.utils.module_loading import import_string

from massmigration.backends import handler, healing
from massmigration.backends.base import BaseBackend
from massmigration.exceptions import BadPayload
from massmigration.jobs import Job

logger = logging.getLogger(__name__)

WORKER = "(worker)"
"""Where healing notes when `recover` has last run; no database has such an alias."""


def perform(payload: str, *, carrier: str = "") -> None:
    """Work at a payload that some backend's `send()` was given.

    `carrier` is the dotted path of the backend whose queue has delivered it. The job of a migration that this worker
    does not know yet goes back by it, or by the settings' backend where that is one of its class.
    Raise `BadPayload` for anything else. An exception is the infrastructure's: the queue may deliver again.
    """
    job = Job.loads(payload)
    close_old_connections()
    try:
        handler.backend_of_job(job.key, _unless_of_the_settings(carrier)).perform(payload)
    finally:
        close_old_connections()


def backend_of(payload: str) -> BaseBackend:
    """The backend that performs a payload; for what is no job, that of the settings. Raise `BadBackend`."""
    try:
        key = Job.loads(payload).key
    except BadPayload:
        key = ""
    return handler.backend_of_job(key, "")


def recover(*, at_most_once_a_lease: bool = False) -> int:
    """Send what is stuck on any database again, and return how many jobs that were. For workers that start, and beat.

    A worker that can do something beside its jobs calls it every few seconds, `at_most_once_a_lease`.
    A database that cannot be read, or has no tables for mass migrations, is logged and passed over.
    """
    if at_most_once_a_lease and not healing.is_time(WORKER):
        return 0
    close_old_connections()
    sent = 0
    try:
        for db_alias in connections:
            try:
                sent += healing.heal(db_alias)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("Nothing was sent again for database %s: %s", db_alias, error)
    finally:
        close_old_connections()
    return sent


def _unless_of_the_settings(carrier: str) -> str:
    """Empty where the settings' backend is one of the carrier's class: it is the project's own."""
    with contextlib.suppress(Exception):  # what cannot be made is none of it; a known migration does not need it
        if carrier and isinstance(handler.get_backend(), import_string(carrier)):
            return ""
    return carrier
