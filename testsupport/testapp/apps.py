"""The app's configuration."""

from django.apps import AppConfig
from django.db.backends.signals import connection_created


def do_not_sync(connection, **kwargs):
    """Keep SQLite from waiting for the disk: tests kill processes, and no machine."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous = OFF")


class TestAppConfig(AppConfig):
    name = "testsupport.testapp"
    label = "testapp"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        connection_created.connect(do_not_sync)
        from testsupport.fleet import equip  # it imports models

        equip()
