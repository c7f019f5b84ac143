"""The backend for App Engine, with the settings of djangae and the parameters of django-mass-migration."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.db.models import QuerySet
from django.urls import NoReverseMatch, reverse
from google.cloud import tasks_v2

from massmigration_djangae import auth, checks, legacy
from massmigration_djangae.backend import CloudTasksBackend
from massmigration_djangae.options import Options, read

DEFAULT_VERSION = "default"
"""In djangae, the version that serves when the job is delivered."""

EMULATOR = "127.0.0.1:9022"
"""The address at which djangae expects an emulator."""


class DjangaeBackend(CloudTasksBackend):
    """A backend that delivers to a service of App Engine.

    It reads `CLOUD_TASKS_PROJECT_ID`, `CLOUD_TASKS_LOCATION` and the `backend_params` of django-mass-migration. Outside
    App Engine it uses an emulator, as djangae does.
    """

    setting_prefixes = ("CLOUD_TASKS_",)

    longest_deadline = dt.timedelta(hours=24, seconds=15)
    """The limit of services with basic or manual scaling. Automatic scaling ends requests after ten minutes."""

    verifier = staticmethod(auth.by_app_engine)

    more_options = legacy.PARAMS

    def read_options(self, options: Mapping[str, Any]) -> Options:
        own = {
            "project": getattr(settings, "CLOUD_TASKS_PROJECT_ID", None),
            "location": getattr(settings, "CLOUD_TASKS_LOCATION", None),
            "version": os.environ.get("GAE_VERSION"),
        }
        self.old = legacy.read(options)
        given = {**{name: value for name, value in own.items() if value}, **options, **self.old.options}
        return read(given) if auth.is_on_app_engine() else read(given, project="example", emulator=EMULATOR)

    def required(self) -> Iterable[str]:
        return ("project", "location", "queue")

    def hard_time_limit(self) -> dt.timedelta:
        return self.given.deadline or dt.timedelta(minutes=10)

    def first_delay(self) -> dt.timedelta | None:
        """Return the delay of `_countdown` or `_eta`."""
        return self.old.delay()

    def split(self, queryset: QuerySet[Any], keyset: Any, count: int) -> Any:
        return self.old.split(queryset, keyset, count, super().split)

    def check(self) -> Iterable[CheckMessage]:
        yield from super().check()
        yield from self.old.check()

    def problems_of_target(self) -> Iterable[CheckMessage]:
        if not self.given.verifier and settings.DEBUG and not auth.is_on_app_engine():
            yield Warning(
                "App Engine's headers can only be trusted on App Engine, so every delivery is refused here.",
                hint=f"For an emulator, set {checks.OPTIONS} = {{'verifier': '{auth.DEVELOPMENT}'}} in the settings of "
                "development.",
                id="massmigration_djangae.W005",
            )
        try:
            path = self._path()
        except NoReverseMatch:
            yield Error(
                "The URLconf has no massmigration_djangae page, so App Engine cannot deliver jobs.",
                hint=checks.INCLUDE,
                id="massmigration_djangae.E005",
            )
            return
        yield from checks.redirects(path)

    def task_of(self, payload: str) -> dict[str, Any]:
        routing = {"service": self.given.service, "version": self.given.version, "instance": self.given.instance}
        if self.given.version == DEFAULT_VERSION:
            del routing["version"]
        return {
            "app_engine_http_request": {
                "http_method": tasks_v2.HttpMethod.POST,
                "relative_uri": self._path(),
                "headers": {"Content-Type": "application/json"},
                "app_engine_routing": {name: value for name, value in routing.items() if value},
                "body": payload.encode(),
            }
        }

    def _path(self) -> str:
        return self.given.url or reverse(checks.VIEW)
