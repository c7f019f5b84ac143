"""The migrations of the contract, over rows of massmigration's event table, and recorders of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.db.models import QuerySet

from massmigration.backends import worker
from massmigration.backends.base import BaseBackend
from massmigration.definitions.base import BaseMigration, MapperMigration, SimpleMigration
from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.dialects.times import DatabaseNow
from massmigration.jobs import Job, JobKind
from massmigration.models import Event

OBJECTS = "contract:objects"
CALLS = "contract:calls"
ONCE = "once"


def make_objects(count: int) -> None:
    """Create events with a key of their own. Every project that has the package also has this table."""
    Event.objects.bulk_create(Event(key=OBJECTS, at=DatabaseNow(), verb="object") for _ in range(count))


def objects() -> list[str]:
    """Return what `calls` returns if the operation was called once for every object."""
    return [str(pk) for pk in Event.objects.filter(key=OBJECTS).order_by("pk").values_list("pk", flat=True)]


def calls() -> list[str]:
    """Return the objects for which operations were called, as they wrote them in their batches' transactions."""
    details = Event.objects.filter(key=CALLS).values_list("detail", flat=True)
    return sorted(details, key=lambda detail: (detail == ONCE, len(detail), detail))


def _write_call(detail: str, db_alias: str) -> None:
    Event.objects.using(db_alias).create(key=CALLS, at=DatabaseNow(), verb="call", detail=detail)


class Mapped(MapperMigration):
    """A migration that records each object for which its operation is called. A batch has two objects."""

    batch_size = 2
    broken: str | None = None
    """The object for which the operation raises."""

    def get_queryset(self, db_alias: str) -> QuerySet[Event]:
        return Event.objects.using(db_alias).filter(key=OBJECTS)

    def operation(self, obj: Any, db_alias: str) -> None:
        if str(obj.pk) == self.broken:
            raise ValueError("raised on purpose")
        _write_call(str(obj.pk), db_alias)


class Simple(SimpleMigration):
    """A migration that records one call."""

    def operation(self, db_alias: str) -> None:
        _write_call(ONCE, db_alias)


class TwoStages(BaseMigration):
    """A migration with the stages of `Mapped` and `Simple`."""

    backend_method = "run_mapper"

    def get_stages(self) -> Sequence[Stage]:
        mapped, simple = Mapped(self.app_label, self.name), Simple(self.app_label, self.name)
        return [
            MappedStage(name=self.key, get_queryset=mapped.get_queryset, operation=mapped.operation),
            OnceStage(name=self.key, operation=simple.operation),
        ]


class Waiting(BaseMigration):
    """A migration with the stages of `Mapped` and `Simple`, and one between them that waits for an operator."""

    backend_method = "run_mapper"

    def get_stages(self) -> Sequence[Stage]:
        first, last = TwoStages(self.app_label, self.name).get_stages()
        return [first, self.wait("Are the objects good?"), last]


class Deliveries:
    """A recorder of the jobs that the queue delivers, which can lose or repeat them before they run."""

    def __init__(self) -> None:
        self.payloads: list[str] = []
        self.times = 1
        self.loses: Callable[[Job], bool] = lambda job: False

    def of(self, kind: JobKind) -> list[str]:
        """Return the payloads of one kind of job."""
        return [payload for payload in self.payloads if Job.loads(payload).kind is kind]

    def lose_first(self, kind: JobKind) -> None:
        self.loses = lambda job: job.kind is kind and len(self.of(kind)) == 1

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        perform_with = worker.perform_with

        def deliver(payload: str, backend: BaseBackend) -> None:
            self.payloads.append(payload)
            if not self.loses(Job.loads(payload)):
                for _ in range(self.times):
                    perform_with(payload, backend)

        monkeypatch.setattr(worker, "perform_with", deliver)


class Sent:
    """A recorder of every payload that is passed to a backend."""

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
