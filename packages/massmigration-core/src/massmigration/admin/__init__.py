"""The records in Django's admin: to look at, and to give verbs to."""

from massmigration.admin.histories import EventAdmin, FailedObjectAdmin
from massmigration.admin.records import MigrationRecordAdmin

__all__ = ["EventAdmin", "FailedObjectAdmin", "MigrationRecordAdmin"]
