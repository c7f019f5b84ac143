"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class MassMigrationConfig(AppConfig):
    """Mass migrations: data migrations that run beside the site."""

    name = "massmigration"
    verbose_name = "Mass migrations"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from massmigration import checks, checks_of_requirements, fresh, gates  # models are not loaded before
        from massmigration.backends import launching
        from massmigration.operations import around_migrate

        checks.connect()
        checks_of_requirements.connect()
        launching.connect()
        fresh.connect()
        gates.connect()
        around_migrate.connect()
