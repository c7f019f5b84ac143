"""Receivers of `pre_migrate` and `post_migrate`, for the data operations in Django's migrations."""

from __future__ import annotations

import re
from typing import Any

from django.apps import apps
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import post_migrate, pre_migrate

from massmigration.models import MigrationRecord
from massmigration.operations import schema_migrations
from massmigration.operations.base import DataOperation
from massmigration.recorder import tables

_KEY = re.compile(r"(?P<app_label>[^:]+):(?P<name>.+)\.\d+")


def connect() -> None:
    """Connect the receivers. Called when Django's apps are ready."""
    sender = apps.get_app_config("massmigration")
    pre_migrate.connect(_before, sender=sender, dispatch_uid="massmigration.operations")
    post_migrate.connect(_after, sender=sender, dispatch_uid="massmigration.operations")


def _before(*, using: str, plan: Any = (), **kwargs: Any) -> None:
    """Set `atomic = False` on migrations that contain only data operations, which make their own transactions."""
    for migration, _ in plan or ():
        operations = migration.operations
        if operations and all(isinstance(operation, DataOperation) for operation in operations):
            migration.atomic = False
    _tidy(using)


def _after(*, using: str, **kwargs: Any) -> None:
    _tidy(using)


def _tidy(db_alias: str) -> None:
    """Delete the records of operations whose migrations Django has recorded as applied."""
    applied = MigrationRecorder(connections[db_alias]).applied_migrations()
    # Before our first migration, a table of this name belongs to django-mass-migration.
    if ("massmigration", "0001_initial") not in applied or not tables.belong(db_alias):
        return
    keys = list(MigrationRecord.objects.using(db_alias).filter(key__contains=".").values_list("key", flat=True))
    for key in keys:
        match = _KEY.fullmatch(key)
        if match and (match["app_label"], match["name"]) in applied:
            schema_migrations.forget(key, db_alias)
