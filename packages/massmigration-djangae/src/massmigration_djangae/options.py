"""What the backends can be told, and what they find in the environment."""

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
    """The backend's options, as `MASSMIGRATION_BACKEND_OPTIONS` and a migration's `backend_params` give them."""

    project: str = ""
    """The Google Cloud project; by default GOOGLE_CLOUD_PROJECT of the environment."""

    location: str = ""
    """The queue's location, as in `europe-west1`."""

    queue: str = "default"
    """The queue's name."""

    url: str = ""
    """Where the service delivers to: the full address of `massmigration_djangae.urls`' one page."""

    service_account: str = ""
    """The e-mail address of the account that requests are signed for."""

    audience: str = ""
    """Whom the signature is meant for; by default the `url`."""

    verifier: str = ""
    """Dotted path of what authenticates requests instead: see `massmigration_djangae.auth`."""

    deadline: dt.timedelta | None = None
    """When the service gives a request up; jobs use half of it."""

    emulator: str = ""
    """`host:port` of an emulator; by default TASKS_EMULATOR_HOST of the environment."""

    service: str = ""
    """App Engine only: the service that requests go to; by default the default one."""

    version: str = ""
    """App Engine only: its version; by default the sender's own. "default": whichever serves then."""

    instance: str = ""
    """App Engine only: its instance."""

    @property
    def queue_path(self) -> str:
        return f"projects/{self.project}/locations/{self.location}/queues/{self.queue}"


NAMES = frozenset(field.name for field in dataclasses.fields(Options))


def read(given: Mapping[str, Any], **defaults: str) -> Options:
    """The options that are given, else those of the environment, else the defaults. Others are left to the checks."""
    environment = {
        "project": os.environ.get(PROJECT_VARIABLE, ""),
        "emulator": os.environ.get(EMULATOR_VARIABLE, ""),
    }
    found: dict[str, Any] = {**defaults, **{name: value for name, value in environment.items() if value}}
    found |= {name: value for name, value in given.items() if name in NAMES and value}
    found.setdefault("audience", found.get("url", ""))
    return Options(**found)
