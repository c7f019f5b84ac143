"""Context managers that make this process a client or a worker of a Celery broker."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

from celery import Celery, signals
from celery._state import _tls, set_default_app
from celery.backends.redis import RedisBackend
from celery.contrib.testing.worker import start_worker
from kombu import pools
from kombu.asynchronous import set_event_loop


class Client(Celery):
    """A Celery app that can close the result backends of its threads, which Celery never closes."""

    def _get_backend(self) -> Any:
        made = super()._get_backend()
        self.__dict__.setdefault("made", []).append(made)
        return made

    def close(self) -> None:
        super().close()
        pools.reset()  # all apps share them
        for made in self.__dict__.get("made", []):
            if isinstance(made, RedisBackend) and "client" in vars(made):
                made.result_consumer.stop()
                made.result_consumer._pubsub = None  # results that are forgotten later would connect again
                made.client.connection_pool.disconnect()


@contextlib.contextmanager
def client_of(broker_url: str, **conf: Any) -> Iterator[Celery]:
    """Connect the current app to this broker, with a queue of its own. Close all connections at the end."""
    app = Client("tests", set_as_current=False)
    app.conf.update({"broker_url": broker_url, "task_default_queue": f"massmigration-{uuid.uuid4().hex[:8]}", **conf})
    app.set_default()
    app.set_current()
    try:
        yield app
    finally:
        app.close()
        set_default_app(None)
        _tls.current_app = None


@contextlib.contextmanager
def worker_of(app: Celery) -> Iterator[None]:
    """Run a worker in a thread, without Celery's changes to the logging of this process."""

    def leave_alone(**kwargs: Any) -> None:
        pass

    signals.setup_logging.connect(leave_alone)
    try:
        with mock.patch.dict(os.environ), start_worker(app, pool="solo", perform_ping_check=False):
            logging.captureWarnings(False)
            yield
    finally:
        signals.setup_logging.disconnect(leave_alone)
        set_event_loop(None)  # Celery 5.3's next worker of this process would take the old timer along
