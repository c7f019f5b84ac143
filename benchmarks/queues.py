"""A measurement of what a queue costs: one worker behind it, against one thread of the local backend, on the same rows.

Two figures for each. The time from launch to applied, which holds everything but is blurred by whatever else the
machine does; and the share of it in which no job was being worked at, which is the queue's own doing, and exact.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django.test import override_settings

from benchmarks import table
from benchmarks.benchapp.apps import time_jobs
from benchmarks.options import Sizes
from massmigration import api
from massmigration.models import MigrationRecord
from testsupport.processes import RunFolder
from testsupport.services import Redis

TITLE = "What a queue costs, `update_fields`, one worker"
DATABASES = ("postgresql",)
KEY = "benchapp:0001_fields"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queue:
    """A way to run jobs. The worker that `command` starts logs `ready` when it takes jobs."""

    backend: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    command: Sequence[str] = ()
    ready: str = ""
    target: float = 0
    """The greatest share of a run that it may cost."""


LOCAL = "local, one thread"
QUEUES = {
    LOCAL: Queue(backend="massmigration.backends.local.LocalBackend", options={"workers": 1}),
    "Celery, prefork": Queue(
        backend="massmigration_celery.CeleryBackend",
        command=["celery", "-A", "benchmarks.celery_app", "worker", "-P", "prefork", "-c", "1", "-l", "INFO"],
        ready=" ready.",
        target=0.01,
    ),
    "RQ, forking": Queue(
        backend="massmigration_rq.RQBackend",
        command=["django", "rqworker", "default"],
        ready="Listening on",
        target=0.02,
    ),
}


def measure(sizes: Sizes) -> dict[str, Any]:
    """Run each way in turn, several times."""
    folder = Path(os.environ["BENCH_FOLDER"])
    seconds: dict[str, list[float]] = {name: [] for name in QUEUES}
    idle: dict[str, list[float]] = {name: [] for name in QUEUES}
    with _redis(), contextlib.ExitStack() as stack:
        import benchmarks.celery_app  # noqa: F401 - from now on it is the current one

        time_jobs()
        for name, queue in QUEUES.items():
            stack.enter_context(_worker(queue, folder / f"{name}.times", folder / f"{name}.log"))
        for _ in range(sizes.heavy_repeat):
            for name, queue in QUEUES.items():
                took, share = _run(queue, sizes.rows, folder / f"{name}.times")
                seconds[name].append(took)
                idle[name].append(share)
    return {"rows": sizes.rows, "seconds": seconds, "idle": idle}


def render(result: dict[str, Any]) -> list[str]:
    seconds, idle = result["seconds"], result["idle"]
    lines = [
        f"{result['rows']:,} rows, medians of {len(seconds[LOCAL])}.",
        "",
        "| | seconds | to local | between jobs | queue overhead | target | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, queue in QUEUES.items():
        took, share = statistics.median(seconds[name]), statistics.median(idle[name])
        slower = took / statistics.median(seconds[LOCAL]) - 1
        overhead = share - statistics.median(idle[LOCAL])
        lines.append(
            f"| {name} | {took:.1f} | {slower:+.2%} | {share:.2%} | {overhead:+.2%} | {_met(queue, overhead)} |"
        )
    return lines


def _met(queue: Queue, overhead: float) -> str:
    if not queue.target:
        return "|"
    return f"< {queue.target:.0%} | {'yes' if overhead < queue.target else '**no**'}"


def _run(queue: Queue, rows: int, times: Path) -> tuple[float, float]:
    """Return the seconds from launch to applied, and the share of them in which no job was running."""
    table.rebuild(rows)
    times.write_text("")
    # Jobs of the local backend run in this process. Other workers have the variable in their environment.
    os.environ["BENCH_TIMES"] = str(times)
    with override_settings(MASSMIGRATION_BACKEND=queue.backend, MASSMIGRATION_BACKEND_OPTIONS=dict(queue.options)):
        api.launch(KEY)
        reading = api.wait(KEY)
        assert reading.status == "applied", reading
        time.sleep(0.5)  # the last job ends after the migration
    table.check((0, rows))
    record = MigrationRecord.objects.get(key=KEY)
    took = (record.finished_at - record.launched_at).total_seconds()
    return took, 1 - sum(map(float, times.read_text().split())) / took


@contextlib.contextmanager
def _redis() -> Iterator[None]:
    run, server = RunFolder(), Redis()
    try:
        os.environ["BENCH_REDIS_URL"] = url = server.start(run)
        with override_settings(RQ_QUEUES={"default": {"URL": url}}):
            yield
    finally:
        server.stop()
        run.remove()


@contextlib.contextmanager
def _worker(queue: Queue, times: Path, log: Path) -> Iterator[None]:
    if not queue.command:
        yield
        return
    environ = {**os.environ, "BENCH_BACKEND": queue.backend, "BENCH_TIMES": str(times)}
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", *queue.command], env=environ, stdout=out, stderr=out)
    try:
        while queue.ready not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
