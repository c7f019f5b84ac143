"""The app configuration."""

from __future__ import annotations

from django.apps import AppConfig


class SchemaChangesConfig(AppConfig):
    """Online schema changes."""

    name = "massmigration_schema"
    verbose_name = "Online schema changes"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from massmigration.loader import store  # these import models
        from massmigration_schema import change

        store.add_source(change.schema_changes)
