"""What is done before and after Django's `migrate`, for the operations on data that it meets."""

from __future__ import annotations

import re
from typing import Any

from django.apps import apps
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import post_migrate, pre_migrate

from massmigration import tables
from massmigration.models import MigrationRecord
from massmigration.operations import in_schema_migrations
from massmigration.operations.base import DataOperation

_KEY = re.compile(r"(?P<app_label>[^:]+):(?P<name>.+)\.\d+")


def connect() -> None:
    """Called when Django's apps are ready."""
    sender = apps.get_app_config("massmigration")
    pre_migrate.connect(_before, sender=sender, dispatch_uid="massmigration.operations")
    post_migrate.connect(_after, sender=sender, dispatch_uid="massmigration.operations")


def _before(*, using: str, plan: Any = (), **kwargs: Any) -> None:
    """Give migrations that consist of data operations no transaction; they make their own."""
    for migration, _ in plan or ():
        operations = migration.operations
        if operations and all(isinstance(operation, DataOperation) for operation in operations):
            migration.atomic = False
    _tidy(using)


def _after(*, using: str, **kwargs: Any) -> None:
    _tidy(using)


def _tidy(db_alias: str) -> None:
    """Forget the records of operations whose migrations Django has noted as applied."""
    applied = MigrationRecorder(connections[db_alias]).applied_migrations()
    # Before its first migration, the table of records, if there is one, is not yet ours.
    if ("massmigration", "0001_initial") not in applied or not tables.belong(db_alias):
        return
    keys = list(MigrationRecord.objects.using(db_alias).filter(key__contains=".").values_list("key", flat=True))
    for key in keys:
        match = _KEY.fullmatch(key)
        if match and (match["app_label"], match["name"]) in applied:
            in_schema_migrations.forget(key, db_alias)
