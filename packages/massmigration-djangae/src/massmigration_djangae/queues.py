"""The state of a queue of Cloud Tasks, and functions that pause, resume and purge it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from google.api_core import exceptions as api_exceptions
from google.cloud import tasks_v2

from massmigration.backends.base import BackendHealth
from massmigration_djangae import client
from massmigration_djangae.errors import AFTERWARDS
from massmigration_djangae.options import Options

IDLE = ("PAUSED", "DISABLED")

LISTED = 1000
"""The most tasks that are listed. The service does not count its tasks; it only lists them in pages."""


def state(options: Options) -> str:
    """Return the service's name of the queue's state, or an empty string if this account may not read it."""
    try:
        queue = client.get(options.emulator).get_queue(
            request={"name": options.queue_path}, retry=client.RETRY, timeout=client.TIMEOUT
        )
    except api_exceptions.PermissionDenied:
        return ""
    return str(tasks_v2.Queue.State(queue.state).name)


def advice(options: Options, state: str) -> str:
    """Return what to do about a queue that is paused or disabled."""
    place = f"--project={options.project} --location={options.location}"
    return (
        f"The queue {options.queue!r} is {state.lower()} and delivers no tasks. "
        f"Resume it: gcloud tasks queues resume {options.queue} {place}. {AFTERWARDS}"
    )


def task_names(options: Options) -> Iterator[str]:
    """Yield the names of the tasks that are waiting or running, up to `LISTED`."""
    tasks = client.get(options.emulator).list_tasks(
        request={"parent": options.queue_path, "page_size": LISTED}, retry=client.RETRY, timeout=client.TIMEOUT
    )
    return itertools.islice((task.name.rpartition("/")[2] for task in tasks), LISTED)


def health(options: Options) -> BackendHealth:
    """Return the queue's state and its number of tasks."""
    found = state(options)
    details: dict[str, Any] = {"queue": options.queue_path, "state": found.lower() or "unknown"}
    queued: int | None = None
    try:
        queued = sum(1 for _ in task_names(options))
    except api_exceptions.PermissionDenied:
        details["tasks"] = "this account may not list them"
    if queued == LISTED:
        details["tasks"] = f"{LISTED} or more"
    return BackendHealth(queued=queued, details=details, problem=advice(options, found) if found in IDLE else "")


def control(options: Options, command: str) -> None:
    """Run `pause`, `resume` or `purge` on the queue."""
    method = getattr(client.get(options.emulator), f"{command}_queue")
    method(request={"name": options.queue_path}, retry=client.RETRY, timeout=client.TIMEOUT)
