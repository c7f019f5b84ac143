"""Holds tasks back while something is only tried."""

from __future__ import annotations

from typing import Any

from google.cloud import tasks_v2

from massmigration.backends.holding import Holder


def _given(request: Any = None, *, parent: str = "", task: Any = None) -> tasks_v2.CreateTaskRequest:
    return tasks_v2.CreateTaskRequest(request or {"parent": parent, "task": task})


def _describe(client: Any, request: Any = None, *, parent: str = "", task: Any = None, **kwargs: Any) -> str:
    given = _given(request, parent=parent, task=task)
    target = given.task.http_request.url or given.task.app_engine_http_request.relative_uri
    return f"Task in {given.parent} for {target}"


def _stand_in(client: Any, request: Any = None, *, parent: str = "", task: Any = None, **kwargs: Any) -> Any:
    return _given(request, parent=parent, task=task).task


# Whoever creates tasks, by whichever client, calls this method in the end.
holder = Holder((tasks_v2.CloudTasksClient, "create_task"), describe=_describe, stand_in=_stand_in)
