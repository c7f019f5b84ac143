"""A clock that moves only when a test moves it."""

from __future__ import annotations

import pytest

from massmigration.dialects import sqlite
from massmigration.executor import batch_size


class Clock:
    """A substitute for the module `time` in modules that measure batches."""

    def __init__(self) -> None:
        self.now = 128.0
        self.slept = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = cls()
        monkeypatch.setattr(batch_size, "time", clock)
        monkeypatch.setattr(sqlite, "time", clock)
        return clock
