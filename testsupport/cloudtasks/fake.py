"""A fake of Cloud Tasks that, unlike the emulator, remembers names, checks deadlines and sizes, and signs.

It delivers only when it is told to, through Django's test client, so a test decides what is lost and what comes twice.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from django.test import Client
from google.api_core import exceptions
from google.cloud import tasks_v2

from testsupport.cloudtasks.signing import token

LONGEST_TASK = 100_000


class FakeCloudTasks:
    """The queues of a project. The next `answers_lost` calls create their task, but raise an error."""

    def __init__(self, *queues: str) -> None:
        self.states = dict.fromkeys(queues, tasks_v2.Queue.State.RUNNING)
        self.waiting: list[tasks_v2.Task] = []
        self.names: set[str] = set()
        self.deliveries: list[tuple[str, int]] = []
        self.refusals = 0
        self.answers_lost = 0
        self.error: Exception | None = None
        self.calls: list[str] = []

    def create_task(self, request: Any, retry: Any = None, timeout: Any = None) -> Any:
        return self._call("create_task", retry, lambda: self._create(tasks_v2.CreateTaskRequest(request)))

    def get_queue(self, request: Any, retry: Any = None, timeout: Any = None) -> Any:
        return self._call("get_queue", retry, lambda: SimpleNamespace(state=self._state(request["name"])))

    def list_tasks(self, request: Any, retry: Any = None, timeout: Any = None) -> Iterator[Any]:
        return iter(self._call("list_tasks", retry, lambda: list(self.waiting)))

    def pause_queue(self, request: Any, retry: Any = None, timeout: Any = None) -> None:
        self._call("pause_queue", retry, lambda: self._set(request["name"], tasks_v2.Queue.State.PAUSED))

    def resume_queue(self, request: Any, retry: Any = None, timeout: Any = None) -> None:
        self._call("resume_queue", retry, lambda: self._set(request["name"], tasks_v2.Queue.State.RUNNING))

    def purge_queue(self, request: Any, retry: Any = None, timeout: Any = None) -> None:
        self._call("purge_queue", retry, self.waiting.clear)

    def _call(self, name: str, retry: Any, do: Any) -> Any:
        def attempt() -> Any:
            self.calls.append(name)
            if self.error is not None:
                raise self.error
            return do()

        return (retry(attempt) if retry else attempt)()

    def _create(self, request: Any) -> Any:
        self._state(request.parent)
        task = request.task
        if task.name in self.names:
            raise exceptions.AlreadyExists("The task cannot be created because a task with this name existed.")
        deadline = dt.timedelta(seconds=task.dispatch_deadline.total_seconds())
        longest = dt.timedelta(minutes=30) if task.http_request.url else dt.timedelta(hours=24, seconds=15)
        if deadline and not dt.timedelta(seconds=15) <= deadline <= longest:
            raise exceptions.InvalidArgument("Task.dispatchDeadline must be between [15s, 30m].")
        if tasks_v2.Task.pb(task).ByteSize() > LONGEST_TASK:
            raise exceptions.InvalidArgument("Task size too large")
        self.names.add(task.name)
        self.waiting.append(task)
        if self.answers_lost:
            self.answers_lost -= 1
            raise exceptions.ServiceUnavailable("The connection was lost.")
        return task

    def _state(self, name: str) -> Any:
        if name not in self.states:
            raise exceptions.NotFound(f"Queue does not exist: {name}")
        return self.states[name]

    def _set(self, name: str, state: Any) -> None:
        self._state(name)
        self.states[name] = state

    def deliver(self, task: Any, *, times: int = 1) -> int:
        """Send the request of a task; return the last status. A refused task stays in the queue."""
        request = task.http_request
        name = task.name.rpartition("/")[2]
        for _ in range(times):
            headers = {**request.headers, "X-CloudTasks-TaskName": name}
            if request.oidc_token.service_account_email:
                claims = {"email": request.oidc_token.service_account_email}
                headers["Authorization"] = f"Bearer {token(request.oidc_token.audience or request.url, **claims)}"
            response = Client().post(
                urlsplit(request.url).path,
                bytes(request.body).decode(),
                content_type=headers.pop("Content-Type"),
                headers=headers,
            )
            self.deliveries.append((name, response.status_code))
        if response.status_code >= 300:
            self.refusals += 1
            self.waiting.append(task)
        return response.status_code

    def drain(self, *, times: int = 1, most: int = 500) -> None:
        """Deliver until the queue is empty; deliver delayed tasks at once."""
        for _ in range(most):
            if not self.waiting:
                return
            self.deliver(self.waiting.pop(0), times=times)
        raise AssertionError(f"There were still tasks after {most} deliveries.")
