"""Backends for an emulator that does not sign."""

from __future__ import annotations

from typing import Any

from massmigration_djangae import CloudTasksBackend
from testsupport.cloudtasks.signing import token


class SignedByTests(CloudTasksBackend):
    """A backend that adds to each task what Google adds at its delivery."""

    def task_of(self, payload: str) -> dict[str, Any]:
        task = super().task_of(payload)
        task["http_request"]["headers"]["Authorization"] = f"Bearer {token(self.given.audience)}"
        return task
