"""Asks Cloud Tasks about a queue, and tells it to stop, to go on, and to forget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from google.api_core import exceptions as api_exceptions
from google.cloud import tasks_v2

from massmigration.backends.base import BackendHealth
from massmigration_djangae import client
from massmigration_djangae.options import Options
from massmigration_djangae.problems import AFTERWARDS

IDLE = ("PAUSED", "DISABLED")

LISTED = 1000
"""How many tasks are looked at, at most: the service gives no number, only pages."""


def state(options: Options) -> str:
    """The queue's state, as the service calls it; empty if this account may not ask."""
    try:
        queue = client.get(options.emulator).get_queue(
            request={"name": options.queue_path}, retry=client.RETRY, timeout=client.TIMEOUT
        )
    except api_exceptions.PermissionDenied:
        return ""
    return str(tasks_v2.Queue.State(queue.state).name)


def advice(options: Options, state: str) -> str:
    """What to do about a queue that stands still."""
    place = f"--project={options.project} --location={options.location}"
    return (
        f"The queue {options.queue!r} is {state.lower()}, and delivers nothing. "
        f"Resume it: gcloud tasks queues resume {options.queue} {place}. {AFTERWARDS}"
    )


def task_names(options: Options) -> Iterator[str]:
    """The names of the tasks that wait or are being performed, up to `LISTED`."""
    tasks = client.get(options.emulator).list_tasks(
        request={"parent": options.queue_path, "page_size": LISTED}, retry=client.RETRY, timeout=client.TIMEOUT
    )
    return itertools.islice((task.name.rpartition("/")[2] for task in tasks), LISTED)


def health(options: Options) -> BackendHealth:
    """The queue's state, and how many tasks it has."""
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


def steer(options: Options, verb: str) -> None:
    """`pause`, `resume` or `purge` the queue."""
    method = getattr(client.get(options.emulator), f"{verb}_queue")
    method(request={"name": options.queue_path}, retry=client.RETRY, timeout=client.TIMEOUT)
