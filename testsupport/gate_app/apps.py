"""The app's configuration."""

from django.apps import AppConfig


class GateAppConfig(AppConfig):
    name = "testsupport.gate_app"
    label = "gated"
