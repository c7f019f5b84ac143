"""Holds tasks back while something is only tried."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from google.cloud import tasks_v2

_held: ContextVar[list[str] | None] = ContextVar("massmigration_held_tasks", default=None)
_create_task = tasks_v2.CloudTasksClient.create_task


def _create_or_hold(self: Any, request: Any = None, *, parent: str = "", task: Any = None, **kwargs: Any) -> Any:
    held = _held.get()
    if held is None:
        return _create_task(self, request, parent=parent or None, task=task, **kwargs)
    given = tasks_v2.CreateTaskRequest(request or {"parent": parent, "task": task})
    target = given.task.http_request.url or given.task.app_engine_http_request.relative_uri
    held.append(f"Task in {given.parent} for {target}")
    return given.task


@contextlib.contextmanager
def tasks_held_back() -> Iterator[list[str]]:
    """List the tasks that this thread would create, by whichever client, instead of creating them."""
    # Whoever creates tasks calls this method in the end. Other threads go on to create theirs.
    tasks_v2.CloudTasksClient.create_task = _create_or_hold  # type: ignore[method-assign, assignment]
    held: list[str] = []
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)
