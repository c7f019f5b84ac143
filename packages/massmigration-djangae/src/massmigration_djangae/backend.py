"""The Cloud Tasks backend: jobs come back to Django as HTTP requests."""

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
from massmigration_djangae import auth, capture, checks, client, queues, task_names
from massmigration_djangae.actions import admin_actions
from massmigration_djangae.errors import translated
from massmigration_djangae.exceptions import QueueRefused
from massmigration_djangae.options import NAMES, Options, read

DEFAULT_DEADLINE = dt.timedelta(minutes=10)
"""The service's default."""


class CloudTasksBackend(BaseBackend):
    """A backend that delivers signed requests to a URL. Its options are in `massmigration_djangae.options.Options`."""

    supports_delay = True

    shortest_deadline = dt.timedelta(seconds=15)
    longest_deadline = dt.timedelta(minutes=30)
    """The deadlines that the service accepts."""

    verifier: auth.Verifier = staticmethod(auth.signed)

    more_options: frozenset[str] = frozenset()
    """Names of options that only this class has."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given = self.read_options(options)
        self.admin_actions = admin_actions(self.given, self.send)

    def read_options(self, options: Mapping[str, Any]) -> Options:
        """Return the given options, with the defaults of this class."""
        return read(options)

    def required(self) -> Iterable[str]:
        """Return the names of the options that must be set."""
        account = () if self.given.verifier else ("service_account",)
        return ("project", "location", "queue", "url", *account)

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        with translated(self.given, "send"):
            checks.refuse_incomplete(type(self).__qualname__, self.given, self.required())
            if _is_new(payload):
                self._refuse_if_idle()
            self._create(payload, delay)

    def send_all(self, payloads: Sequence[str], finish: str) -> None:
        with translated(self.given, "send the jobs of the shards"):
            for payload in payloads:
                self._create(payload, None)

    def hard_time_limit(self) -> dt.timedelta:
        return self.given.deadline or self.longest_deadline

    def check(self) -> Iterable[CheckMessage]:
        name = type(self).__qualname__
        yield from checks.missing(name, self.given, self.required())
        yield from checks.development_verifier(self.given)
        yield from checks.deadline(self.given, self.shortest_deadline, self.longest_deadline)
        yield from checks.unknown(name, self.options, NAMES | self.more_options)
        yield from self.problems_of_target()

    def health(self) -> BackendHealth:
        return queues.health(self.given)

    def capture_sends(self) -> contextlib.AbstractContextManager[list[str]]:
        return capture.send_capture.capture_sends()

    def authenticate(self, request: HttpRequest) -> None:
        """Raise `NotAuthentic` if the request does not come from the queue."""
        verify = import_string(self.given.verifier) if self.given.verifier else self.verifier
        verify(request, self.given)

    def problems_of_target(self) -> Iterable[CheckMessage]:
        """Return check messages about the target of deliveries and their authentication."""
        return checks.http_target(self.given)

    def task_of(self, payload: str) -> dict[str, Any]:
        """Return the request that the service has to make, as a field of a task."""
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
        """Return the time after which the service terminates a request: the option, or what the longest job needs."""
        needed = self.given.deadline or max(DEFAULT_DEADLINE, self.job_duration() * 2)
        return min(max(needed, self.shortest_deadline), self.longest_deadline)

    def _create(self, payload: str, delay: dt.timedelta | None) -> None:
        task = {
            **self.task_of(payload),
            "name": f"{self.given.queue_path}/tasks/{task_names.name_of(payload)}",
            "dispatch_deadline": duration_pb2.Duration(seconds=int(self.dispatch_deadline().total_seconds())),
        }
        if delay:
            schedule_time = timestamp_pb2.Timestamp()
            schedule_time.FromDatetime(dt.datetime.now(dt.timezone.utc) + delay)
            task["schedule_time"] = schedule_time
        # The task exists: an earlier call created it but its answer was lost, or a duplicate of this task sent it.
        with contextlib.suppress(api_exceptions.AlreadyExists):
            client.get(self.given.emulator).create_task(
                request={"parent": self.given.queue_path, "task": task}, retry=client.RETRY, timeout=client.TIMEOUT
            )

    def _refuse_if_idle(self) -> None:
        """Raise `QueueRefused` if the queue delivers nothing: a launch would look as if it were running."""
        state = queues.state(self.given)
        if state in queues.IDLE:
            raise QueueRefused(queues.advice(self.given, state))


def _is_new(payload: str) -> bool:
    """Return whether an operator's action sends the job, and not a task that is running."""
    try:
        return not task_names.is_running() and Job.loads(payload).kind is JobKind.PLAN
    except BadPayload:
        return False
