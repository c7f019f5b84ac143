"""A function that runs a migration inside a test."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

from django.test import TestCase

from massmigration import api, record_cache
from massmigration.executor import job
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status

IMMEDIATE = "massmigration.backends.immediate.ImmediateBackend"


def run_migration(key: str, db_alias: str = api.DEFAULT, *, proceed: bool = True) -> MigrationRecord:
    """Launch a migration, run all its jobs immediately, whatever its backend, and return its record.

    Throttles are not called.
    `proceed`: confirm the questions of the stages that wait. With False, the record is waiting at the first of them.

    This works in Django's `TestCase` too, whose transaction never commits. Raise the exceptions of `api.launch`. If the
    operation raises, the record's status is `failed`, and its `last_error` contains the reason.
    """
    migration = store.get(key)
    with (
        mock.patch.object(migration, "backend", IMMEDIATE),
        mock.patch.object(job, "throttle_of", return_value=None),
    ):
        # In a database that the test runner has made, migrations are recorded as applied.
        MigrationRecord.objects.using(db_alias).filter(key=key, status=Status.APPLIED).delete()
        record_cache.forget(key, db_alias)
        record = _perform(api.launch, key, db_alias)
        while proceed and record.status == Status.WAITING:
            record = _perform(api.proceed, key, db_alias)
        return record


def _perform(action: Callable[..., None], key: str, db_alias: str) -> MigrationRecord:
    # In a TestCase, jobs wait for a commit and run at the end of the block. Elsewhere they run immediately.
    with TestCase.captureOnCommitCallbacks(using=db_alias, execute=True):
        action(key, db_alias, actor="code:test")
    return MigrationRecord.objects.using(db_alias).get(key=key)
