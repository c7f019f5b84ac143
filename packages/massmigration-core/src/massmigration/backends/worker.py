"""The work of a worker: it performs jobs that a queue has delivered, and sends stuck jobs again."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import threading
import time

from django.db import DatabaseError, InterfaceError, close_old_connections
from django.utils.module_loading import import_string

from massmigration import executor, text
from massmigration.backends import handler
from massmigration.backends.base import BaseBackend
from massmigration.backends.sender import JobSender, collect_failed_sends
from massmigration.conf import settings
from massmigration.jobs import Job
from massmigration.recorder import events, stuck

logger = logging.getLogger(__name__)

_last: dict[str, float] = {}
_earlier: dict[str, float] = {}
"""By database: the time at which the wait of the next throttled shard without a job ends."""
_lock = threading.Lock()

CLOCK_MARGIN = 0.05
"""Seconds added to the wait of a throttled shard, because the database's clock may be a little behind."""


def perform(payload: str, *, carrier: str = "") -> None:
    """Run the job in a payload that a queue has delivered.

    `carrier` is the dotted path of the backend whose queue delivered it. If this worker does not know the job's
    migration yet, it sends the job back through that backend, or through the backend of the settings if that is an
    instance of the same class.

    Raise `BadPayload` if the payload is not a job: drop it. After any other exception, the queue should deliver the
    payload again.
    """
    key = Job.loads(payload).key
    close_old_connections()
    try:
        perform_with(payload, handler.backend_of_job(key, _unless_of_the_settings(carrier)))
    finally:
        close_old_connections()


def perform_with(payload: str, backend: BaseBackend) -> None:
    """Run the job in a payload, and send its continuation through `backend`.

    Raise the first exception of a send: this delivery is then the only remaining way to continue.
    """
    job = Job.loads(payload)
    sender = JobSender(backend)
    run_periodically(job.db_alias)
    with collect_failed_sends() as failed:
        continuation = executor.run(job, sender, between_batches=run_periodically)
        if continuation is not None:
            sender.continue_with(continuation)
    if failed:
        raise failed[0]


def _unless_of_the_settings(carrier: str) -> str:
    """Return an empty string if the backend of the settings is an instance of the carrier's class, else `carrier`."""
    with contextlib.suppress(Exception):  # a backend that cannot be created is not needed for a known migration
        if carrier and isinstance(handler.get_backend(), import_string(carrier)):
            return ""
    return carrier


def recover(db_alias: str) -> int:
    """Send every stuck item of this database that no other process sends. Return the number of jobs that were sent.

    A job that the queue does not accept is recorded as an event, and is due again at once.
    Stuck items are lost plan jobs, unclaimed shards, shards with an expired lease, completed stages without a
    completion check, and next stages that were never planned.
    """
    sent = 0
    taken = stuck.take_stuck_jobs(db_alias)
    _wake_in(db_alias, stuck.next_wait(db_alias))
    for item in taken:
        logger.info("Migration %s on database %s: sending its %s again.", item.job.key, db_alias, item.job.what)
        with collect_failed_sends() as failed:
            try:
                handler.sender_of_job(item.job.key, item.backend).enqueue(item.job)
            except Exception as error:  # backend_params may be the project's code; continue with the other items
                failed.append(error)
                told = "Could not send the %s of migration %s. Recovery will try again later."
                logger.error(told, item.job.what, item.job.key, exc_info=text.logged(error))
                events.record_not_sent(item.job, text.described(error))
        if failed:
            stuck.give_back(item)
        else:
            sent += 1
            events.record_sent(item.job)
    return sent


def _wake_in(db_alias: str, wait: dt.timedelta | None) -> None:
    with _lock:
        _earlier.pop(db_alias, None)
        if wait is not None:
            _earlier[db_alias] = time.monotonic() + wait.total_seconds() + CLOCK_MARGIN


def is_due(name: str, db_alias: str | None = None) -> bool:
    """Return whether a lease has passed since the last True for this name in this process, or a shard's wait is over.

    `db_alias`: the database of the shards; None: all databases.
    """
    with _lock:
        now = time.monotonic()
        passed = now - _last.get(name, float("-inf")) >= settings.LEASE.total_seconds()
        over = [alias for alias, wait in _earlier.items() if wait <= now and db_alias in (None, alias)]
        for alias in over:
            del _earlier[alias]
        if not passed and not over:
            return False
        _last[name] = now
        return True


def run_periodically(db_alias: str) -> None:
    """Run `recover` at most once a lease in this process. Log errors: the caller has other work to do."""
    if not is_due(db_alias, db_alias):
        return
    try:
        recover(db_alias)
    except (DatabaseError, InterfaceError):
        logger.warning("Recovery on database %s failed. It will run again later.", db_alias, exc_info=True)
