"""What the contract's tests stand on: the backend under test, the migrations, and what was sent and delivered."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from massmigration import api
from massmigration.backends.handler import get_backend
from massmigration.clock import DatabaseNow
from massmigration.loader import store
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.testing import workload
from massmigration.testing.workload import Deliveries, Mapped, Sent, Simple, TwoStages

MAPPED = "contract:0001_mapped"
SIMPLE = "contract:0002_simple"
TWO_STAGES = "contract:0003_two_stages"
BATCHES = 3


class ContractBase(ABC):
    """What an adapter's author fills in, and what the tests use."""

    backend_path: str
    """What `MASSMIGRATION_BACKEND` is set to."""

    backend_options: dict[str, Any] = {}
    """What `MASSMIGRATION_BACKEND_OPTIONS` is set to."""

    @abstractmethod
    def drain(self) -> None:
        """Run a worker in this process until the queue is empty, of jobs that are held back too.

        Make the queue's state outlive the backend: settings that change in a test make a new one.
        """

    @pytest.fixture(autouse=True)
    def _contract(self, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        settings.MASSMIGRATION_BACKEND = self.backend_path
        settings.MASSMIGRATION_BACKEND_OPTIONS = self.backend_options
        self.mapped = Mapped("contract", "0001_mapped")
        self.deliveries = Deliveries()
        self.deliveries.install(monkeypatch)
        self.sent = Sent()
        self.sent.install(monkeypatch, type(get_backend()))
        workload.make_objects(BATCHES * 2)
        with store.registered(self.mapped, Simple("contract", "0002_simple"), TwoStages("contract", "0003_two_stages")):
            yield

    @pytest.fixture
    def short_lease(self, settings: Any) -> None:
        """Bounds how long a job is held back whose shard another worker has."""
        settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=1.5)

    def launch(self, key: str = MAPPED) -> None:
        api.launch(key, actor="code:contract")

    def status(self, key: str = MAPPED) -> str:
        return MigrationRecord.objects.get(key=key).status

    def heal_later(self) -> None:
        """As `api.heal()` when the leases have run out."""
        past = DatabaseNow(-dt.timedelta(days=1))
        ShardRecord.objects.update(next_send_at=past, lease_until=past)
        MigrationRecord.objects.update(next_send_at=past)
        api.heal()

    def replace_stop_requested(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
        monkeypatch.setattr(type(get_backend()), "stop_requested", lambda backend: answer())

    def send_again(self, payloads: Sequence[str]) -> None:
        backend = get_backend()
        for payload in list(payloads):
            backend.send(payload, None)
        self.drain()
