"""A worker process, which runs recovery, and jobs in the threads of the local backend, until it is stopped."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import sys
import threading
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connections
from django.db.backends.signals import connection_created

from massmigration import api, conf
from massmigration.backends import handler, worker
from massmigration.backends.local import EXIT_WAIT, pool
from massmigration.loader import store
from massmigration.paging import sharding
from testsupport import failpoints
from testsupport.database_servers import DATABASE_SERVERS
from testsupport.process_guard import die_with_parent

LOOK_EVERY = 0.02
NOT_ENDED = 3

logger = logging.getLogger("worker")


def prepare() -> None:
    """Import the databases' drivers and the migrations once, for all workers that this process will fork."""
    for alias in connections:
        connections[alias]
    assert store.all


def work(order: dict[str, Any], *, parent: int) -> None:
    """Work as `testsupport.worker_processes.Fleet` orders, then end the process."""
    die_with_parent(signal.SIGKILL)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *args: asked.set())
    signal.signal(signal.SIGUSR1, lambda *args: os.environ.update(MM_TEST_PAUSE="0"))
    _write_to(order["log"])
    os.environ.update(order["environ"])
    _configure(order["settings"])
    note_sessions(order["sessions"])
    failpoints.arm()
    logger.info("started")
    backend = handler.get_backend()
    for payload in order["payloads"]:
        backend.send(payload, None)
    if order["call"]:
        verb, key = order["call"]
        getattr(api, verb)(key, order["db_alias"], actor="code:worker")
    was_idle = True
    while not asked.wait(LOOK_EVERY) and os.getppid() == parent:
        close_old_connections()  # an administrator may have ended the session
        worker.run_periodically(order["db_alias"])
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
    """Apply settings, with durations in seconds. Cut even the small tables of the tests into shards."""
    sharding.MIN_SHARD_SIZE = 1
    defaults = vars(conf.Settings)
    for name, value in given.items():
        is_duration = isinstance(defaults[name], dt.timedelta)
        setattr(settings, f"MASSMIGRATION_{name}", dt.timedelta(seconds=value) if is_duration else value)


def note_sessions(path: str) -> None:
    """Write the server's number of each new connection into a file."""

    def note(connection: Any, **kwargs: Any) -> None:
        if connection.alias not in DATABASE_SERVERS:
            return
        with connection.cursor() as cursor, open(path, "a") as file:  # noqa: PTH123
            cursor.execute(DATABASE_SERVERS[connection.alias].own_session)
            file.write(f"{cursor.fetchone()[0]}\n")

    connection_created.connect(note, weak=False)
