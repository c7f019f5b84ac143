"""The options of the backends, and their defaults from the environment."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Mapping
from typing import Any

EMULATOR_VARIABLE = "TASKS_EMULATOR_HOST"
PROJECT_VARIABLE = "GOOGLE_CLOUD_PROJECT"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a backend, from `MASSMIGRATION_BACKEND_OPTIONS` and a migration's `backend_params`."""

    project: str = ""
    """The Google Cloud project. Defaults to GOOGLE_CLOUD_PROJECT in the environment."""

    location: str = ""
    """The queue's location, for example `europe-west1`."""

    queue: str = "default"
    """The queue's name."""

    url: str = ""
    """The full address of the page in `massmigration_djangae.urls`, to which the service delivers."""

    service_account: str = ""
    """The e-mail address of the account that requests are signed for."""

    audience: str = ""
    """The audience of the signature. Defaults to the `url`."""

    verifier: str = ""
    """Dotted path of another function that authenticates requests; see `massmigration_djangae.auth`."""

    deadline: dt.timedelta | None = None
    """The time after which the service terminates a request. Jobs use half of it."""

    emulator: str = ""
    """`host:port` of an emulator. Defaults to TASKS_EMULATOR_HOST in the environment."""

    service: str = ""
    """App Engine only: the service that receives the requests. Defaults to the default service."""

    version: str = ""
    """App Engine only: its version. Defaults to the sender's version. "default": the one that serves at delivery."""

    instance: str = ""
    """App Engine only: its instance."""

    @property
    def queue_path(self) -> str:
        return f"projects/{self.project}/locations/{self.location}/queues/{self.queue}"


NAMES = frozenset(field.name for field in dataclasses.fields(Options))


def read(given: Mapping[str, Any], **defaults: str) -> Options:
    """Return the given options, completed from the environment and then from `defaults`. Checks report unknown ones."""
    environment = {
        "project": os.environ.get(PROJECT_VARIABLE, ""),
        "emulator": os.environ.get(EMULATOR_VARIABLE, ""),
    }
    found: dict[str, Any] = {**defaults, **{name: value for name, value in environment.items() if value}}
    found |= {name: value for name, value in given.items() if name in NAMES and value}
    found.setdefault("audience", found.get("url", ""))
    return Options(**found)
