"""The process' one connection to Cloud Tasks, and how calls on it are tried again."""

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
"""Seconds that one call may take."""

PATIENCE = 15.0
"""Seconds after which a call that keeps failing is given up."""

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
"""For errors that pass. A task that was created although the answer was lost is found by its name."""

_clients: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()


def get(emulator: str) -> Any:
    """The client, made when first asked for: a channel does not survive a fork."""
    with _lock:
        place = (os.getpid(), emulator)
        if place not in _clients:
            _clients[place] = connect(emulator)
        return _clients[place]


def connect(emulator: str) -> Any:
    """A new client, of the service with the machine's own credentials, or of an emulator without any."""
    if emulator:
        return tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=grpc.insecure_channel(emulator)))
    return tasks_v2.CloudTasksClient()
