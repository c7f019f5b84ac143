"""Workers of an online change, behind each queue."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import Error, connections
from django.test import override_settings

from massmigration import api
from testsupport.celery_client import client_of
from testsupport.celery_fleet import command as celery_command
from testsupport.fleet import ProcessFleet
from testsupport.online.scene import KEY, NAME
from testsupport.rq_fleet import MANAGE, QUEUE
from testsupport.worker_processes import DUMMY

ROOT = Path(__file__).parents[2]
DOUBLED_EVERY = 2.0
"""Seconds after which the jobs that are not done are sent once more."""

LEASE = 4
"""Seconds after which another worker takes over the shards of a killed one."""


@contextlib.contextmanager
def online_fleet(
    queue: str, db_alias: str, folder: Path, redis_url: str = "", *, equipment: Sequence[Callable[[], None]] = ()
) -> Iterator[ProcessFleet]:
    """Return the workers of a queue that can import the app in a folder, and make this process their client.

    The fleet starts no worker. `equipment`: functions that each worker calls at its start.
    """
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environ = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "MM_TEST_EQUIPMENT": ",".join(f"{each.__module__}.{each.__name__}" for each in equipment),
    }
    with QUEUES[queue](db_alias, redis_url, environ) as fleet:
        yield fleet


@contextlib.contextmanager
def _local(db_alias: str, redis_url: str, environ: dict[str, str]) -> Iterator[ProcessFleet]:
    # This process only launches: jobs are run by `massmigrate`, which finds them by recovery, as after a loss.
    command = [sys.executable, "-m", "django", "massmigrate", "shop", NAME, "--database", db_alias]
    more = {"MASSMIGRATION_BACKEND_OPTIONS": {"workers": 1}}
    fleet = ProcessFleet(db_alias, command, ready="", environ=environ, more=_apps(more), LEASE=LEASE)
    with override_settings(MASSMIGRATION_BACKEND=DUMMY), fleet:
        yield fleet


@contextlib.contextmanager
def _celery(db_alias: str, redis_url: str, environ: dict[str, str]) -> Iterator[ProcessFleet]:
    conf = {"broker_url": redis_url, "task_default_queue": f"massmigration-{uuid.uuid4().hex[:8]}"}
    more = {f"CELERY_{name.upper()}": value for name, value in conf.items()}
    more["MASSMIGRATION_BACKEND"] = "massmigration_celery.CeleryBackend"
    fleet = ProcessFleet(
        db_alias, celery_command("prefork"), ready=" ready.", environ=environ, more=_apps(more), LEASE=LEASE
    )
    with client_of(**conf), fleet:
        yield fleet


@contextlib.contextmanager
def _rq(db_alias: str, redis_url: str, environ: dict[str, str]) -> Iterator[ProcessFleet]:
    more = {
        "RQ_QUEUES": {QUEUE: {"URL": redis_url}},
        "MASSMIGRATION_BACKEND": "massmigration_rq.RQBackend",
        "MASSMIGRATION_BACKEND_OPTIONS": {"queue": QUEUE, "retries": 3},
    }
    command = [sys.executable, "-c", MANAGE, "rqworker", QUEUE, "--worker-class", "massmigration_rq.Worker"]
    with ProcessFleet(db_alias, command, ready="Listening on", environ=environ, more=_apps(more), LEASE=LEASE) as fleet:
        yield fleet


QUEUES: dict[str, Callable[[str, str, dict[str, str]], Any]] = {"local": _local, "celery": _celery, "rq": _rq}


def _apps(more: dict[str, Any]) -> dict[str, Any]:
    return {"INSTALLED_APPS": list(settings.INSTALLED_APPS), **more}


def keep_doubling() -> None:
    """Have this process send every job of the change that is not done once more, from time to time."""

    def run() -> None:
        while True:
            time.sleep(DOUBLED_EVERY)
            with contextlib.suppress(Error):
                api.send(KEY, os.environ["MM_TEST_ALIAS"])
            connections.close_all()

    threading.Thread(target=run, daemon=True).start()
