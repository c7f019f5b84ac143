"""What a worker process does: heal, and run jobs in the threads of the local backend, until it is told to stop."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import sys
import threading
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.backends.signals import connection_created

from massmigration import api, conf, sharding
from massmigration.backends import handler
from massmigration.backends.local import EXIT_WAIT, pool
from testsupport import deaths
from testsupport.guard import die_with_parent

LOOK_EVERY = 0.02
NOT_ENDED = 3

logger = logging.getLogger("worker")


def work(order: dict[str, Any], *, parent: int) -> None:
    """Follow an order of `testsupport.workers.Fleet`. Ends with the process, by `sys.exit`."""
    die_with_parent(signal.SIGKILL)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *args: asked.set())
    signal.signal(signal.SIGUSR1, lambda *args: os.environ.update(MM_TEST_PAUSE="0"))
    _write_to(order["log"])
    os.environ.update(order["environ"])
    _configure(order["settings"])
    note_sessions(order["sessions"])
    deaths.arm()
    logger.info("started")
    backend = handler.get_backend()
    for payload in order["payloads"]:
        backend.send(payload, None)
    if order["call"]:
        verb, key = order["call"]
        getattr(api, verb)(key, order["db_alias"], actor="code:worker")
    was_idle = True
    while not asked.wait(LOOK_EVERY) and os.getppid() == parent:
        backend.heal(order["db_alias"])
        is_idle = pool.wait_until_idle(0)
        if is_idle != was_idle:
            logger.info("idle" if is_idle else "busy")
        was_idle = is_idle
    has_ended = pool.stop(EXIT_WAIT)
    connections.close_all()
    sys.exit(0 if has_ended else NOT_ENDED)


def _write_to(log: str) -> None:
    sys.stdout.flush()
    with open(os.devnull) as nothing, open(log, "a") as file:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")


def _configure(given: dict[str, Any]) -> None:
    """Durations are given in seconds. The tests' tables are small, and cut all the same."""
    sharding.MIN_SHARD_SIZE = 1
    defaults = vars(conf.Settings)
    for name, value in given.items():
        is_duration = isinstance(defaults[name], dt.timedelta)
        setattr(settings, f"MASSMIGRATION_{name}", dt.timedelta(seconds=value) if is_duration else value)


def note_sessions(path: str) -> None:
    """Write down the number that the server knows each of our connections by."""

    def note(connection: Any, **kwargs: Any) -> None:
        asks = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
        if connection.vendor not in asks:
            return
        with connection.cursor() as cursor, open(path, "a") as file:  # noqa: PTH123
            cursor.execute(asks[connection.vendor])
            file.write(f"{cursor.fetchone()[0]}\n")

    connection_created.connect(note, weak=False)
