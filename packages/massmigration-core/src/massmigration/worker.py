"""The one function that every adapter's worker calls."""

from __future__ import annotations

from django.db import close_old_connections

from massmigration.backends import handler
from massmigration.jobs import Job


def perform(payload: str) -> None:
    """Work at a payload that some backend's `send()` was given.

    Raise `BadPayload` for anything else. An exception is the infrastructure's: the queue may deliver again.
    """
    job = Job.loads(payload)
    close_old_connections()
    try:
        handler.backend_of_job(job.key, "").perform(payload)
    finally:
        close_old_connections()
