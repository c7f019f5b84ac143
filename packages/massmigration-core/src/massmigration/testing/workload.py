"""What the contract has a backend carry: migrations over rows of our own event table, and what is delivered of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.db.models import QuerySet

from massmigration.backends.base import BaseBackend
from massmigration.clock import DatabaseNow
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.mapper import MapperMigration
from massmigration.definitions.simple import SimpleMigration
from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.jobs import Job, JobKind
from massmigration.models import Event

OBJECTS = "contract:objects"
CALLS = "contract:calls"
ONCE = "once"


def make_objects(count: int) -> None:
    """The objects are events with a key of their own: this table is in every project that has the package."""
    Event.objects.bulk_create(Event(key=OBJECTS, at=DatabaseNow(), verb="object") for _ in range(count))


def objects() -> list[str]:
    """What `calls` returns when the operation was called once for every object."""
    return [str(pk) for pk in Event.objects.filter(key=OBJECTS).order_by("pk").values_list("pk", flat=True)]


def calls() -> list[str]:
    """What the operations were called for, according to what they wrote in their batches' transactions."""
    details = Event.objects.filter(key=CALLS).values_list("detail", flat=True)
    return sorted(details, key=lambda detail: (detail == ONCE, len(detail), detail))


def _write_call(detail: str, db_alias: str) -> None:
    Event.objects.using(db_alias).create(key=CALLS, at=DatabaseNow(), verb="call", detail=detail)


class Mapped(MapperMigration):
    """Writes down every object it is called for, two to a batch."""

    batch_size = 2
    broken: str | None = None
    """The object that the operation raises for."""

    def get_queryset(self, db_alias: str) -> QuerySet[Event]:
        return Event.objects.using(db_alias).filter(key=OBJECTS)

    def operation(self, obj: Any, db_alias: str) -> None:
        if str(obj.pk) == self.broken:
            raise ValueError("raised on purpose")
        _write_call(str(obj.pk), db_alias)


class Simple(SimpleMigration):
    """Writes down one call."""

    def operation(self, db_alias: str) -> None:
        _write_call(ONCE, db_alias)


class TwoStages(BaseMigration):
    """The work of `Mapped`, then that of `Simple`."""

    backend_method = "run_mapper"

    def get_stages(self) -> Sequence[Stage]:
        mapped, simple = Mapped(self.app_label, self.name), Simple(self.app_label, self.name)
        return [
            MappedStage(name=self.key, get_queryset=mapped.get_queryset, operation=mapped.operation),
            OnceStage(name=self.key, operation=simple.operation),
        ]


class Deliveries:
    """Stands between the queue and the executor: keeps what is delivered, and loses or repeats it when told to."""

    def __init__(self) -> None:
        self.payloads: list[str] = []
        self.times = 1
        self.loses: Callable[[Job], bool] = lambda job: False

    def of(self, kind: JobKind) -> list[str]:
        """The payloads of one kind of job."""
        return [payload for payload in self.payloads if Job.loads(payload).kind is kind]

    def lose_first(self, kind: JobKind) -> None:
        self.loses = lambda job: job.kind is kind and len(self.of(kind)) == 1

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        perform = BaseBackend.perform

        def deliver(backend: BaseBackend, payload: str) -> None:
            self.payloads.append(payload)
            if not self.loses(Job.loads(payload)):
                for _ in range(self.times):
                    perform(backend, payload)

        monkeypatch.setattr(BaseBackend, "perform", deliver)


class Sent:
    """Keeps every payload that is handed to a backend's own methods."""

    def __init__(self) -> None:
        self.payloads: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch, backend_class: type[BaseBackend]) -> None:
        send, send_all, go_on = backend_class.send, backend_class.send_all, backend_class.send_continuation

        def sent(backend: BaseBackend, payload: str, delay: Any) -> None:
            self.payloads.append(payload)
            send(backend, payload, delay)

        def sent_all(backend: BaseBackend, payloads: Sequence[str], finish: str) -> None:
            self.payloads += [*payloads, finish]
            send_all(backend, payloads, finish)

        def went_on(backend: BaseBackend, payload: str, delay: Any) -> None:
            self.payloads.append(payload)
            go_on(backend, payload, delay)

        monkeypatch.setattr(backend_class, "send", sent)
        monkeypatch.setattr(backend_class, "send_all", sent_all)
        monkeypatch.setattr(backend_class, "send_continuation", went_on)
