"""The tests that every backend must pass. Subclass `BackendContract` and implement `drain`:

class TestMyBackend(BackendContract):
    backend_path = "massmigration_example.ExampleBackend"

    def drain(self) -> None:
        example.work(until_empty=True)
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from django.db import transaction

from massmigration import api, worker
from massmigration.backends.base import BaseBackend, problem_of_actions
from massmigration.backends.handler import get_backend
from massmigration.backends.sender import JobSender
from massmigration.dialects.times import DatabaseNow
from massmigration.exceptions import BadPayload
from massmigration.jobs import Job, JobKind
from massmigration.loader import store
from massmigration.models import Event, MigrationRecord, ShardRecord
from massmigration.paging import sharding
from massmigration.recorder import records, shards
from massmigration.states import Status
from massmigration.testing import workload
from massmigration.testing.workload import ONCE, Deliveries, Mapped, Sent, Simple, TwoStages, Waiting, calls, objects

MAPPED = "contract:0001_mapped"
SIMPLE = "contract:0002_simple"
TWO_STAGES = "contract:0003_two_stages"
WAITING = "contract:0004_waiting"
BATCHES = 3


class ContractBase(ABC):
    """The attributes that a subclass sets, and the helpers of the tests."""

    backend_path: str
    """The value of `MASSMIGRATION_BACKEND`."""

    backend_options: dict[str, Any] = {}
    """The value of `MASSMIGRATION_BACKEND_OPTIONS`."""

    @abstractmethod
    def drain(self) -> None:
        """Run a worker in this process until the queue is empty, including delayed jobs.

        The queue must not be part of the backend instance: after a change of settings, a test gets a new instance.
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
        others = [
            Simple("contract", "0002_simple"),
            TwoStages("contract", "0003_two_stages"),
            Waiting("contract", "0004_waiting"),
        ]
        with store.registered(self.mapped, *others):
            yield

    @pytest.fixture
    def short_lease(self, settings: Any) -> None:
        """Shorten the delay of a job whose shard another worker has claimed."""
        settings.MASSMIGRATION_LEASE = dt.timedelta(seconds=1.5)

    def launch(self, key: str = MAPPED) -> None:
        api.launch(key, actor="code:contract")

    def status(self, key: str = MAPPED) -> str:
        return MigrationRecord.objects.get(key=key).status

    def recover_later(self) -> None:
        """Expire all leases, and call `api.recover()`."""
        past = DatabaseNow(-dt.timedelta(days=1))
        ShardRecord.objects.update(next_send_at=past, lease_until=past)
        MigrationRecord.objects.update(next_send_at=past)
        api.recover()

    def replace_stop_requested(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
        monkeypatch.setattr(type(get_backend()), "stop_requested", lambda backend: answer())

    def send_again(self, payloads: Sequence[str]) -> None:
        backend = get_backend()
        for payload in list(payloads):
            backend.send(payload, None)
        self.drain()


@pytest.mark.django_db(transaction=True)
class BackendContract(ContractBase):
    """The tests. They need pytest-django.

    Their migrations map over rows of massmigration's own tables on the default database.
    """

    def test_operators_can_tell_its_actions_apart(self) -> None:
        assert problem_of_actions(get_backend().admin_actions) == ""

    def test_the_operation_is_called_once_for_every_object(self) -> None:
        self.launch()
        self.drain()

        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_an_empty_queryset_is_applied(self) -> None:
        Event.objects.all().delete()

        self.launch()
        self.drain()

        assert self.status() == Status.APPLIED

    def test_a_simple_migration_is_applied(self) -> None:
        self.launch(SIMPLE)
        self.drain()

        assert self.status(SIMPLE) == Status.APPLIED
        assert calls() == [ONCE]

    def test_the_second_stage_follows_the_first(self) -> None:
        self.launch(TWO_STAGES)
        self.drain()

        assert self.status(TWO_STAGES) == Status.APPLIED
        assert calls() == [*objects(), ONCE]

    def test_a_stage_waits_for_an_operator(self) -> None:
        self.launch(WAITING)
        self.drain()

        assert self.status(WAITING) == Status.WAITING
        assert calls() == objects()

        api.proceed(WAITING)
        self.drain()

        assert self.status(WAITING) == Status.APPLIED
        assert calls() == [*objects(), ONCE]

    def test_a_stage_does_not_wait_again_if_its_job_is_delivered_again(self) -> None:
        self.launch(WAITING)
        self.drain()
        payloads = self.deliveries.of(JobKind.PLAN)
        api.proceed(WAITING)
        self.send_again(payloads)

        assert self.status(WAITING) == Status.APPLIED
        assert calls() == [*objects(), ONCE]

    def test_several_shards_are_all_done(self, monkeypatch: pytest.MonkeyPatch, short_lease: None) -> None:
        monkeypatch.setattr(sharding, "MIN_SHARD_SIZE", 1)
        monkeypatch.setattr(
            type(get_backend()), "split", lambda backend, queryset, keyset, count: sharding.split(queryset, keyset, 3)
        )

        self.launch()
        self.drain()

        assert ShardRecord.objects.filter(is_done=True).count() == 3
        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_nothing_depends_on_the_job_that_follows_the_shards(self) -> None:
        self.deliveries.loses = lambda job: job.kind is JobKind.FINISH

        self.launch()
        self.drain()

        assert self.status() == Status.APPLIED

    def test_nothing_is_sent_when_the_transaction_rolls_back(self) -> None:
        with transaction.atomic():
            self.launch()
            transaction.set_rollback(True)
        self.drain()

        assert self.sent.payloads == []
        assert self.deliveries.payloads == []

    def test_nothing_is_sent_before_the_commit(self) -> None:
        with transaction.atomic():
            self.launch()
            assert self.sent.payloads == []
            self.drain()
            assert self.deliveries.payloads == []
        self.drain()

        assert self.status() == Status.APPLIED

    def test_the_jobs_of_shards_wait_for_the_commit_too(self) -> None:
        job = Job(kind=JobKind.SHARD, key=MAPPED, db_alias=api.DEFAULT, attempt_id=str(uuid.uuid4()))
        with transaction.atomic():
            JobSender(get_backend()).enqueue_all([job], finish=job)
            assert self.sent.payloads == []
        self.drain()

        assert self.deliveries.of(JobKind.SHARD) != []

    def test_a_job_delivered_twice_changes_nothing(self, short_lease: None) -> None:
        self.deliveries.times = 2

        self.launch()
        self.drain()

        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_a_job_delivered_again_after_the_end_changes_nothing(self) -> None:
        self.launch()
        self.drain()

        self.send_again(self.deliveries.payloads)

        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_a_job_of_a_replaced_attempt_is_dropped(self) -> None:
        self.mapped.broken = objects()[-1]
        self.launch()
        self.drain()
        old = list(self.deliveries.payloads)
        self.deliveries.loses = lambda job: True
        api.retry(MAPPED)
        self.drain()
        self.mapped.broken = None
        self.deliveries.loses = lambda job: False

        self.send_again(old)

        assert self.status() == Status.RUNNING
        assert calls() == objects()[:-1]

    @pytest.mark.parametrize("stops", [[True], [True] * 100], ids=["once", "always"])
    def test_an_interrupted_job_goes_on(self, monkeypatch: pytest.MonkeyPatch, stops: list[bool]) -> None:
        answers = iter(stops)
        self.replace_stop_requested(monkeypatch, lambda: next(answers, False))

        self.launch()
        self.drain()

        assert len(self.deliveries.of(JobKind.SHARD)) >= min(len(stops) + 1, BATCHES)
        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_a_job_over_its_time_goes_on(self, settings: Any) -> None:
        settings.MASSMIGRATION_JOB_DURATION = dt.timedelta(0)

        self.launch()
        self.drain()

        assert len(self.deliveries.of(JobKind.SHARD)) >= BATCHES
        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_an_operation_that_raises_fails_the_migration_and_spares_the_worker(self) -> None:
        self.mapped.broken = objects()[3]
        self.launch()
        self.drain()

        assert self.status() == Status.FAILED
        assert calls() == objects()[:3]

        self.mapped.broken = None
        api.retry(MAPPED)
        self.drain()

        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_a_delayed_job_arrives(self) -> None:
        backend = get_backend()
        if not backend.supports_delay:
            pytest.skip("The backend cannot delay jobs.")
        attempt_id = str(records.launch(api.DEFAULT, MAPPED, backend=self.backend_path, actor="code:contract"))

        job = Job(kind=JobKind.PLAN, key=MAPPED, db_alias=api.DEFAULT, attempt_id=attempt_id)
        JobSender(backend).enqueue(job, delay=dt.timedelta(milliseconds=50))
        self.drain()

        assert self.status() == Status.APPLIED

    def test_a_job_comes_back_while_another_worker_has_its_shard(self, short_lease: None) -> None:
        self.deliveries.loses = lambda job: job.kind is JobKind.SHARD
        self.launch()
        self.drain()
        payload = self.deliveries.of(JobKind.SHARD)[0]
        shards.claim(Job.loads(payload), "a worker that dies")
        self.deliveries.loses = lambda job: False

        self.send_again([payload])

        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_resume_goes_on_after_a_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        verbs = iter([api.pause])
        self.replace_stop_requested(monkeypatch, lambda: next(verbs, lambda key: False)(MAPPED))
        self.launch()
        self.drain()

        assert self.status() == Status.PAUSED
        assert calls() == objects()[:2]

        api.resume(MAPPED)
        self.drain()

        assert self.status() == Status.APPLIED
        assert calls() == objects()

    @pytest.mark.parametrize("kind", [JobKind.PLAN, JobKind.SHARD], ids=["plan", "shard"])
    def test_a_lost_job_is_healed(self, kind: JobKind) -> None:
        self.deliveries.lose_first(kind)
        self.launch()
        self.drain()

        assert self.status() != Status.APPLIED

        self.recover_later()
        self.drain()

        assert self.status() == Status.APPLIED
        assert calls() == objects()

    def test_a_send_that_raises_is_an_event_and_is_healed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(backend: BaseBackend, payload: str, delay: dt.timedelta | None) -> None:
            raise ConnectionError("refused on purpose")

        with monkeypatch.context() as patch:
            patch.setattr(type(get_backend()), "send", refuse)
            self.launch()

        assert Event.objects.filter(key=MAPPED, verb="not sent").count() == 1

        self.recover_later()
        self.drain()

        assert self.status() == Status.APPLIED

    def test_a_payload_that_is_no_job_is_refused_and_leaves_the_worker_alive(self, short_lease: None) -> None:
        with pytest.raises(BadPayload):
            worker.perform("no job")
        with contextlib.suppress(BadPayload):
            get_backend().send("no job", None)
            self.drain()

        self.launch()
        self.drain()

        assert self.status() == Status.APPLIED

    def test_payloads_are_small_json_and_arrive_as_they_were_sent(self) -> None:
        self.launch(TWO_STAGES)
        self.drain()

        assert set(self.deliveries.payloads) <= set(self.sent.payloads)
        assert {type(payload) for payload in self.deliveries.payloads} == {str}
        assert max(len(payload) for payload in self.sent.payloads) < 1000
        assert {json.loads(payload)["key"] for payload in self.sent.payloads} == {TWO_STAGES}
