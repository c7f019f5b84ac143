"""What RQ calls in workers. Imports nothing that needs Django to be set up."""

import logging

import django
from django.apps import apps

logger = logging.getLogger(__name__)

CARRIER = "massmigration_rq.RQBackend"  # of jobs of migrations that this worker does not know


def perform(payload: str) -> None:
    """Work at a payload. What it raises makes RQ try again; what is no job is logged and dropped."""
    if not apps.ready:  # in workers of plain RQ, and in processes that RQ spawns
        django.setup()
    from massmigration import exceptions, worker

    try:
        worker.perform(payload, carrier=CARRIER)
    except exceptions.BadPayload as error:
        logger.error("Dropped what is no job. %s", error)
