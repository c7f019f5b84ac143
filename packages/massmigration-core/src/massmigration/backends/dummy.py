"""A backend that keeps jobs instead of running them. For tests of code that launches migrations."""

from __future__ import annotations

import datetime as dt
from typing import Any

from massmigration.backends.base import BaseBackend


class DummyBackend(BaseBackend):
    """A backend that appends jobs to `sent`, as pairs of payload and delay, until `clear()`."""

    supports_delay = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: list[tuple[str, dt.timedelta | None]] = []

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        self.sent.append((payload, delay))

    def clear(self) -> None:
        self.sent.clear()
