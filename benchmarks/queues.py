"""Measures what a queue costs: one worker behind it, against one thread of the local backend, on the same rows.

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
from collections.abc import Iterator, Sequence
from pathlib import Path

from django.test import override_settings

from benchmarks import table
from massmigration import api
from massmigration.models import MigrationRecord

KEY = "benchapp:0001_fields"
CELERY = ["celery", "-A", "benchmarks.celery_app", "worker", "-P", "prefork", "-c", "1", "-l", "INFO"]


@dataclasses.dataclass(frozen=True)
class Queue:
    """A way to run jobs. The worker that `command` starts logs `ready` when it takes jobs."""

    backend: str
    command: Sequence[str] = ()
    ready: str = ""


LOCAL = "local, one thread"
QUEUES = {
    LOCAL: Queue("massmigration.backends.local.LocalBackend"),
    "Celery, prefork": Queue("massmigration_celery.CeleryBackend", [sys.executable, "-m", *CELERY], " ready."),
}


def compare(rows: int, repeat: int, folder: Path) -> Iterator[str]:
    """Run each way in turn, `repeat` times, and tell the medians."""
    seconds: dict[str, list[float]] = {}
    idle: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        for name, queue in QUEUES.items():
            stack.enter_context(_worker(queue, folder / f"{name}.times", folder / f"{name}.log"))
        for _ in range(repeat):
            for name, queue in QUEUES.items():
                took, share = _run(queue, rows, folder / f"{name}.times")
                seconds.setdefault(name, []).append(took)
                idle.setdefault(name, []).append(share)
    base, base_idle = statistics.median(seconds[LOCAL]), statistics.median(idle[LOCAL])
    for name in QUEUES:
        took, share = statistics.median(seconds[name]), statistics.median(idle[name])
        yield (
            f"{name:25} {took:7.1f} s, {100 * (took / base - 1):+6.2f} % to local; between jobs {100 * share:.2f} %, "
            f"queue overhead {100 * (share - base_idle):+.2f} %"
        )


def _run(queue: Queue, rows: int, times: Path) -> tuple[float, float]:
    """Seconds from launch to applied, and the share of them in which no job was being worked at."""
    table.rebuild(rows)
    times.write_text("")
    # The local backend's jobs are worked at in this process, the others' where the variable was given to them.
    os.environ["BENCH_TIMES"] = str(times)
    with override_settings(MASSMIGRATION_BACKEND=queue.backend, MASSMIGRATION_BACKEND_OPTIONS=_options(queue)):
        api.launch(KEY)
        reading = api.wait(KEY)
        assert reading.status == "applied", reading
        time.sleep(0.5)  # the last job's end is written after the migration's
    table.check((0, rows))
    record = MigrationRecord.objects.get(key=KEY)
    took = (record.finished_at - record.launched_at).total_seconds()
    return took, 1 - sum(map(float, times.read_text().split())) / took


def _options(queue: Queue) -> dict[str, object]:
    return {"workers": 1} if queue is QUEUES[LOCAL] else {}


@contextlib.contextmanager
def _worker(queue: Queue, times: Path, log: Path) -> Iterator[None]:
    if not queue.command:
        yield
        return
    environ = {**os.environ, "BENCH_BACKEND": queue.backend, "BENCH_TIMES": str(times)}
    with log.open("wb") as out:
        process = subprocess.Popen(queue.command, env=environ, stdout=out, stderr=out)
    try:
        while queue.ready not in log.read_text(errors="replace"):
            assert process.poll() is None, log.read_text(errors="replace")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
