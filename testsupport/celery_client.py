"""Makes a process a client of a Celery broker, for the time of a test."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from celery import Celery
from celery._state import _tls, set_default_app


@contextlib.contextmanager
def client_of(broker_url: str, **conf: Any) -> Iterator[Celery]:
    """Within it, the current app has this broker, and a queue of its own."""
    app = Celery("tests", set_as_current=False)
    app.conf.update({"broker_url": broker_url, "task_default_queue": f"massmigration-{uuid.uuid4().hex[:8]}", **conf})
    app.set_default()
    app.set_current()
    try:
        yield app
    finally:
        app.close()
        set_default_app(None)
        _tls.current_app = None
