"""Real Celery workers for tests."""

from __future__ import annotations

import contextlib
import sys
import uuid

from testsupport import oracle
from testsupport.celery_client import client_of
from testsupport.fleet import ProcessFleet

ROWS = 50_000
BATCH = 250
PAUSE = 0.05 / BATCH
"""A batch lasts this long, nearly all of it in an open transaction."""

KEY = "testapp:0004_by_batch"


def command(pool):
    """Return the command of a worker as in the README, without options that only cost time in tests."""
    words = ["celery", "-A", "testsupport.celery_app", "worker", "-n", "{name}@%h", "-P", pool, "-c", "1", "-l", "INFO"]
    return [sys.executable, "-m", *words, "--without-mingle", "--without-gossip"]


@contextlib.contextmanager
def fleet_of(db_alias, broker_url, pool="prefork", *, result_backend=None, rows=ROWS, conf=None, **settings):
    """Return workers with a queue of their own, and make this process their client."""
    oracle.make_items(db_alias, rows)
    queue = f"massmigration-{uuid.uuid4().hex[:8]}"
    conf = {"broker_url": broker_url, "task_default_queue": queue, "result_backend": result_backend, **(conf or {})}
    more = {f"CELERY_{name.upper()}": value for name, value in conf.items() if value}
    more["MASSMIGRATION_BACKEND"] = "massmigration_celery.CeleryBackend"
    short = {"LEASE": 2, "JOB_DURATION": 1, "BATCH_SIZE": BATCH, "MAX_SET_SIZE": BATCH, "SHARDS": 8}
    with (
        client_of(**conf) as app,
        ProcessFleet(db_alias, command(pool), ready=" ready.", more=more, **{**short, **settings}) as fleet,
    ):
        fleet.app = app
        fleet.queue = queue
        yield fleet
