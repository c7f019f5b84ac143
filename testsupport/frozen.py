"""A clock for the database, the workers and the queue together, which stands still unless it is moved."""

from __future__ import annotations

import contextlib
import datetime as dt
import heapq
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from massmigration.backends.handler import get_backend
from massmigration.dialects.times import DatabaseNow
from massmigration.executor import batch_size, job, throttle
from massmigration.worker import perform

MANY = 5_000
START = dt.datetime(2026, 1, 2, 12, tzinfo=dt.timezone.utc)


class FrozenClock:
    """A substitute for the database's time and the executor's module `time`; a sleep moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def sql(name: str, literal: str) -> None:
            def as_sql(now: Any, compiler: Any, connection: Any, **extra: Any) -> tuple[str, tuple[()]]:
                return literal.format(now=f"{self.now:%Y-%m-%d %H:%M:%S.%f}", offset=now._seconds), ()

            monkeypatch.setattr(DatabaseNow, name, as_sql)

        sql("as_postgresql", "(TIMESTAMPTZ '{now}+00' + INTERVAL '{offset} seconds')")
        sql("as_mysql", "(TIMESTAMP'{now}' + INTERVAL {offset} SECOND)")
        sql("as_sqlite", "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', '{now}', '{offset} seconds')")
        for module in (batch_size, job, throttle):
            monkeypatch.setattr(module, "time", self)

    @property
    def now(self) -> dt.datetime:
        return START + dt.timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Deliveries:
    """A queue that delivers the jobs of the dummy backend in the order of their times."""

    def __init__(self, clock: FrozenClock) -> None:
        self._clock = clock
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, str]] = []
        self.copies = 1
        """How often each job is delivered."""

        self.bears: tuple[type[BaseException], ...] = ()
        """What a delivery may raise: a worker that dies."""

        self.delivered = 0

    @property
    def waiting(self) -> list[str]:
        """Return the waiting payloads in the order of their arrival."""
        self._collect()
        return [payload for _, _, payload in sorted(self._waiting)]

    def send(self, payload: str, delay: dt.timedelta | None = None) -> None:
        due = self._clock.seconds + (delay.total_seconds() if delay else 0)
        heapq.heappush(self._waiting, (due, next(self._order), payload))

    def run(self, count: int | None = None, *, beside: Callable[[], None] | None = None) -> None:
        """Deliver what there is, and what that sends, or only so many; `beside` is called before each delivery."""
        for _ in range(MANY if count is None else count):
            self._collect()
            if not self._waiting:
                return
            due, _, payload = heapq.heappop(self._waiting)
            self._clock.seconds = max(self._clock.seconds, due)
            if beside:
                beside()
            self.delivered += 1
            with contextlib.suppress(*self.bears):
                perform(payload)
        assert count is not None, "The jobs do not end."

    def _collect(self) -> None:
        backend: Any = get_backend()
        for payload, delay in backend.sent:
            for _ in range(self.copies):
                self.send(payload, delay)
        backend.clear()
