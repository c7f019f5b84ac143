"""The process's connection to Cloud Tasks, and the retries of calls."""

from __future__ import annotations

import os
import threading
from typing import Any

import grpc
from google.api_core import exceptions as api_exceptions
from google.api_core.retry import Retry, if_exception_type
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports.grpc import CloudTasksGrpcTransport

TIMEOUT = 5.0
"""The timeout of one call, in seconds."""

PATIENCE = 15.0
"""Seconds after which a failing call is no longer retried."""

RETRY = Retry(
    predicate=if_exception_type(
        api_exceptions.ServiceUnavailable,
        api_exceptions.DeadlineExceeded,
        api_exceptions.InternalServerError,
        api_exceptions.TooManyRequests,
    ),
    initial=0.1,
    maximum=2.0,
    timeout=PATIENCE,
)
"""The retries of temporary errors. If a task was created but the answer was lost, a retry finds its name taken."""

_clients: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()


def get(emulator: str) -> Any:
    """Return the client of this process. A forked process gets its own, because a channel does not survive a fork."""
    with _lock:
        key = (os.getpid(), emulator)
        if key not in _clients:
            _clients[key] = connect(emulator)
        return _clients[key]


def connect(emulator: str) -> Any:
    """Return a new client: of the service, with the machine's credentials, or of an emulator, without credentials."""
    if emulator:
        return tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=grpc.insecure_channel(emulator)))
    return tasks_v2.CloudTasksClient()
