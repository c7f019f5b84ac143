"""Sends jobs to Cloud Tasks, which brings them back as requests."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.core.checks import CheckMessage
from django.http import HttpRequest
from django.utils.module_loading import import_string
from google.api_core import exceptions as api_exceptions
from google.cloud import tasks_v2
from google.protobuf import duration_pb2, timestamp_pb2

from massmigration.backends.base import BackendHealth, BaseBackend
from massmigration.exceptions import BadPayload
from massmigration.jobs import Job, JobKind
from massmigration_djangae import auth, checks, client, deliveries, holding, queues
from massmigration_djangae.actions import admin_actions
from massmigration_djangae.exceptions import QueueRefused
from massmigration_djangae.options import Options, read
from massmigration_djangae.problems import explained

DEFAULT_DEADLINE = dt.timedelta(minutes=10)
"""The service's own."""


class CloudTasksBackend(BaseBackend):
    """Delivers to a URL, signed by Google. Its options are those of `massmigration_djangae.options.Options`."""

    supports_delay = True

    shortest_deadline = dt.timedelta(seconds=15)
    longest_deadline = dt.timedelta(minutes=30)
    """What the service accepts."""

    verifier: auth.Verifier = staticmethod(auth.signed)

    more_options: frozenset[str] = frozenset()
    """Options of this kind of target alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given = self.read_options(options)
        self.admin_actions = admin_actions(self)

    def read_options(self, options: Mapping[str, Any]) -> Options:
        """What was given, and the defaults of this kind of target."""
        return read(options)

    def required(self) -> Iterable[str]:
        """The options without which nothing can be sent."""
        own_proof = () if self.given.verifier else ("service_account",)
        return ("project", "location", "queue", "url", *own_proof)

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        with explained(self.given, "send"):
            checks.refuse_incomplete(self)
            if _begins(payload):
                self._refuse_if_idle()
            self._create(payload, delay)

    def send_all(self, payloads: Sequence[str], finish: str) -> None:
        with explained(self.given, "send the jobs of the shards"):
            for payload in payloads:
                self._create(payload, None)

    def hard_time_limit(self) -> dt.timedelta:
        return self.given.deadline or self.longest_deadline

    def check(self) -> Iterable[CheckMessage]:
        return checks.check(self)

    def health(self) -> BackendHealth:
        return queues.health(self.given)

    def hold_back(self) -> contextlib.AbstractContextManager[list[str]]:
        return holding.holder.hold_back()

    def authenticate(self, request: HttpRequest) -> None:
        """Raise `NotAuthentic` unless the request comes from the queue."""
        verify = import_string(self.given.verifier) if self.given.verifier else self.verifier
        verify(request, self.given)

    def problems_of_target(self) -> Iterable[CheckMessage]:
        """What is wrong with where deliveries go, and who may bring them."""
        return checks.of_http_target(self)

    def task_of(self, payload: str) -> dict[str, Any]:
        """The request that the service is to make."""
        request: dict[str, Any] = {
            "http_method": tasks_v2.HttpMethod.POST,
            "url": self.given.url,
            "headers": {"Content-Type": "application/json"},
            "body": payload.encode(),
        }
        if self.given.service_account:
            request["oidc_token"] = {
                "service_account_email": self.given.service_account,
                "audience": self.given.audience,
            }
        return {"http_request": request}

    def dispatch_deadline(self) -> dt.timedelta:
        """When the service gives a delivery up: what is given, else what the longest job needs."""
        needed = self.given.deadline or max(DEFAULT_DEADLINE, self.job_duration() * 2)
        return min(max(needed, self.shortest_deadline), self.longest_deadline)

    def _create(self, payload: str, delay: dt.timedelta | None) -> None:
        task = {
            **self.task_of(payload),
            "name": f"{self.given.queue_path}/tasks/{deliveries.name_of(payload)}",
            "dispatch_deadline": duration_pb2.Duration(seconds=int(self.dispatch_deadline().total_seconds())),
        }
        if delay:
            schedule_time = timestamp_pb2.Timestamp()
            schedule_time.FromDatetime(dt.datetime.now(dt.timezone.utc) + delay)
            task["schedule_time"] = schedule_time
        # By this name it was created before: by a call whose answer was lost, or by the same delivery's first time.
        with contextlib.suppress(api_exceptions.AlreadyExists):
            client.get(self.given.emulator).create_task(
                request={"parent": self.given.queue_path, "task": task}, retry=client.RETRY, timeout=client.TIMEOUT
            )

    def _refuse_if_idle(self) -> None:
        """A task in a queue that stands still would look like one that runs."""
        state = queues.state(self.given)
        if state in queues.IDLE:
            raise QueueRefused(queues.advice(self.given, state))


def _begins(payload: str) -> bool:
    """Whether an operator begins with it."""
    try:
        return not deliveries.is_performing() and Job.loads(payload).kind is JobKind.PLAN
    except BadPayload:
        return False
