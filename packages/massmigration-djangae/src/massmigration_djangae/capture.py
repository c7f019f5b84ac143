"""A list of the tasks that a dry run would create."""

from __future__ import annotations

from typing import Any

from google.cloud import tasks_v2

from massmigration.backends.capture import SendCapture


def _given(request: Any = None, *, parent: str = "", task: Any = None) -> tasks_v2.CreateTaskRequest:
    return tasks_v2.CreateTaskRequest(request or {"parent": parent, "task": task})


def _describe(client: Any, request: Any = None, *, parent: str = "", task: Any = None, **kwargs: Any) -> str:
    given = _given(request, parent=parent, task=task)
    target = given.task.http_request.url or given.task.app_engine_http_request.relative_uri
    return f"Task in {given.parent} for {target}"


def _stand_in(client: Any, request: Any = None, *, parent: str = "", task: Any = None, **kwargs: Any) -> Any:
    return _given(request, parent=parent, task=task).task


# All ways to create a task end in this method.
send_capture = SendCapture((tasks_v2.CloudTasksClient, "create_task"), describe=_describe, stand_in=_stand_in)
