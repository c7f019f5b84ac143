"""The app's configuration."""

from django.apps import AppConfig


class OperationsAppConfig(AppConfig):
    name = "testsupport.operations_app"
    label = "people"
