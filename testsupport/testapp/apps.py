"""The app's configuration."""

from django.apps import AppConfig


class TestAppConfig(AppConfig):
    name = "testsupport.testapp"
    label = "testapp"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        from testsupport.fleet import equip  # it imports models

        equip()
