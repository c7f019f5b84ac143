"""The app's configuration."""

from django.apps import AppConfig


class TestAppConfig(AppConfig):
    name = "testsupport.testapp"
    label = "testapp"
    default_auto_field = "django.db.models.BigAutoField"
