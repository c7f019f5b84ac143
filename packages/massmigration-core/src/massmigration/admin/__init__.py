"""The records in Django's admin, with the operator actions."""

from massmigration.admin.models import EventAdmin, FailedObjectAdmin, MigrationRecordAdmin

__all__ = ["EventAdmin", "FailedObjectAdmin", "MigrationRecordAdmin"]
