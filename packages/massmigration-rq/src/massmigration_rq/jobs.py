"""The function that RQ workers call. This module imports nothing that needs Django to be set up."""

import logging

import django
from django.apps import apps

logger = logging.getLogger(__name__)

CARRIER = "massmigration_rq.RQBackend"  # sends back the jobs of migrations that this worker does not know


def perform(payload: str) -> None:
    """Run a job. RQ retries it after an exception. A payload that is not a job is logged and dropped."""
    if not apps.ready:  # in RQ's own workers, and in processes that RQ spawns
        django.setup()
    from massmigration import exceptions, worker

    try:
        worker.perform(payload, carrier=CARRIER)
    except exceptions.BadPayload as error:
        logger.error("Dropped a payload that is not a job. %s", error)
