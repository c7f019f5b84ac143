"""Runs a migration to its end inside a test."""

from __future__ import annotations

from unittest import mock

from django.test import TestCase

from massmigration import api, record_cache
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status

IMMEDIATE = "massmigration.backends.immediate.ImmediateBackend"


def run_migration(key: str, db_alias: str = api.DEFAULT) -> MigrationRecord:
    """Launch a migration, whatever its backend, do all its work here and now, and return its record.

    Works in Django's `TestCase` too, whose transaction never commits. Raises what `api.launch` raises;
    when the operation raised, the record's status is `failed` and its `last_error` says why.
    """
    migration = store.get(key)
    with mock.patch.object(migration, "backend", IMMEDIATE):
        # A database that the test runner has made is marked as migrated.
        MigrationRecord.objects.using(db_alias).filter(key=key, status=Status.APPLIED).delete()
        record_cache.forget(key, db_alias)
        # In a TestCase the jobs wait for a commit, and are run at the end of the block; elsewhere they run at once.
        with TestCase.captureOnCommitCallbacks(using=db_alias, execute=True):
            api.launch(key, db_alias, actor="code:test")
        return MigrationRecord.objects.using(db_alias).get(key=key)
