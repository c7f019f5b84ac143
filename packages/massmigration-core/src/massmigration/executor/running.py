"""Dispatches a job."""

from __future__ import annotations

import contextlib
import logging

from django.db import DatabaseError, InterfaceError, connections

from massmigration.conf import settings
from massmigration.exceptions import BadMigrationFile, InvalidTransition, MassMigrationError, MigrationNotFound
from massmigration.executor import planning, shard_job
from massmigration.executor.finishing import fail, finish
from massmigration.executor.transport import Transport
from massmigration.jobs import Delivery, Job, JobKind
from massmigration.loader import store
from massmigration.recorder import drift, records
from massmigration.states import Status
from massmigration.transient import is_transient

logger = logging.getLogger(__name__)

_given_back: set[str] = set()
"""Attempts whose jobs this process has given back, each of which it tells once."""


def run(job: Job, transport: Transport) -> Delivery | None:
    """Work at a job until it is done or interrupted. Return what is to be sent to go on with it."""
    try:
        return _run(job, transport)
    except (DatabaseError, InterfaceError) as error:
        if not is_transient(error):
            raise
        logger.warning("Job %s was refused by the database (%s); it is sent again.", job, error)
        connections[job.db_alias].close_if_unusable_or_obsolete()
        return Delivery(job=job, delay=settings.LEASE / 4)


def _run(job: Job, transport: Transport) -> Delivery | None:
    try:
        migration = store.get(job.key)
    except (MigrationNotFound, BadMigrationFile) as error:
        return _give_back(job, error, transport)
    try:
        stages = migration.get_stages()
        if job.stage >= len(stages):
            raise BadMigrationFile(f"Migration {job.key!r} has {len(stages)} stages; stage {job.stage} is gone.")
    except MassMigrationError as error:
        fail(job, str(error))
        return None
    if drift.note(job, migration.source_hash) and migration.on_code_change == "pause":
        with contextlib.suppress(InvalidTransition):
            records.move(job.db_alias, job.key, Status.PAUSED, "pause", actor="code: the file has changed")
    logger.debug("Running %s.", job)
    if job.kind is JobKind.PLAN:
        return planning.run(job, stages, transport)
    if job.kind is JobKind.SHARD:
        return shard_job.run(job, stages, transport)
    finish(job, stages, transport)
    return None


def _give_back(job: Job, error: MassMigrationError, transport: Transport) -> Delivery | None:
    """Perhaps this worker has not been deployed yet: the job goes back, if the database knows of its run.

    Where the queue cannot hold it back meanwhile, healing sends it again.
    """
    if not records.is_active(job):
        logger.error("Dropped a job of migration %r, of which database %r knows no run.", job.key, job.db_alias)
        return None
    if job.attempt_id not in _given_back:
        _given_back.add(job.attempt_id)
        logger.error("This worker cannot work at migration %r; its jobs go back to the queue. %s", job.key, error)
    return Delivery(job=job, delay=settings.LEASE / 4) if transport.supports_delay else None
