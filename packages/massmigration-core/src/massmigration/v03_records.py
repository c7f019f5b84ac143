"""Conversion of the fields of a record of django-mass-migration 0.3.x."""

from __future__ import annotations

import uuid
from typing import Any

from django.apps.registry import Apps
from django.db import models

from massmigration.dialects.times import DatabaseNow
from massmigration.states import Status


class V03Record(models.Model):
    """A record of 0.3.x. Which of the columns exist depends on the version that made them."""

    key = models.CharField(max_length=250, primary_key=True)
    is_applied = models.BooleanField()
    has_error = models.BooleanField()
    attempt_uuid = models.UUIDField()
    initiated_at = models.DateTimeField(null=True)
    applied_at = models.DateTimeField(null=True)
    last_error = models.TextField()
    was_faked = models.BooleanField()

    objects: models.Manager[Any] = models.Manager()

    class Meta:
        abstract = True
        apps = Apps()
        app_label = "massmigration"
        managed = False

    def __str__(self) -> str:
        return self.key


class Entity(V03Record):
    """A record of 0.3.x in a document database. It has the same kind as our records."""

    class Meta(V03Record.Meta):
        db_table = "massmigration_migrationrecord"


def fields_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the new record. What was running becomes cancelled; the time of a failure is not known."""
    status = status_of(row)
    finished = {Status.APPLIED: row.get("applied_at"), Status.CANCELLED: DatabaseNow()}
    return {
        "key": row["key"],
        "status": status.value,
        "attempt_id": row.get("attempt_uuid") or uuid.uuid4(),
        "is_managed": False,
        "launched_at": row.get("initiated_at"),
        "started_at": row.get("initiated_at"),
        "finished_at": finished.get(status),
        "last_error": row.get("last_error") or "",
        "was_faked": bool(row.get("was_faked")),
    }


def status_of(row: dict[str, Any]) -> Status:
    """Return the status of the new record."""
    # The mapper continued after an error, and marked the migration as applied as well at the end.
    if row["has_error"]:
        return Status.FAILED
    return Status.APPLIED if row["is_applied"] else Status.CANCELLED


def detail_of(row: dict[str, Any]) -> str:
    """Return the text of the event that records the conversion."""
    found = [name for name in ("is_applied", "has_error") if row[name]]
    text = f"The record of django-mass-migration had {' and '.join(found) or 'neither is_applied nor has_error'}."
    if status_of(row) is Status.FAILED and row["is_applied"]:
        return f"{text} It failed on some objects, which were skipped."
    return text
