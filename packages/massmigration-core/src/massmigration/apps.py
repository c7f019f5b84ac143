"""The app configuration."""

from __future__ import annotations

from django.apps import AppConfig


class MassMigrationConfig(AppConfig):
    """Mass migrations: data migrations that run in the background."""

    name = "massmigration"
    verbose_name = "Mass migrations"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from massmigration import checks, fresh_database, gates  # these import models
        from massmigration.backends import handler
        from massmigration.operations import migrate_hooks

        checks.connect()
        handler.connect()
        fresh_database.connect()
        gates.connect()
        migrate_hooks.connect()
