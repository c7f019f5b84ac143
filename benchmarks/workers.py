"""Worker processes of a benchmark, with a queue that they share, and how long each was at work."""

from __future__ import annotations

import dataclasses
import datetime as dt
import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import connections

from massmigration import api
from massmigration.backends.base import BaseBackend
from massmigration.executor.atomic_batch import AtomicBatchRunner
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.states import FINAL
from massmigration.worker import perform

_context = multiprocessing.get_context("fork")
_queue: Any = None


class SharedBackend(BaseBackend):
    """A backend for the queue that the worker processes share."""

    supports_delay = True

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        if delay:
            timer = threading.Timer(delay.total_seconds(), _queue.put, [payload])
            timer.daemon = True
            timer.start()
        else:
            _queue.put(payload)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The measured run of a migration."""

    seconds: float
    """From the first batch's begin to the end of the last."""

    worked: list[float]
    """Seconds that each worker was inside batches."""

    shards: int

    @property
    def idle(self) -> list[float]:
        """The share of the run in which each worker was not processing a batch."""
        return [1 - worked / self.seconds for worked in self.worked]


def run(key: str, count: int, prepare: Callable[[], None] = lambda: None) -> Run:
    """Launch a migration, and let so many processes work on it until its end."""
    global _queue
    _queue = _context.SimpleQueue()
    answers = _context.SimpleQueue()
    MigrationRecord.objects.filter(key=key).delete()
    api.launch(key)
    connections.close_all()
    processes = [_context.Process(target=_work, args=(key, prepare, answers), daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    spans = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    record = MigrationRecord.objects.get(key=key)
    assert record.status == "applied", record.last_error or record.status
    batches = [span for each in spans for span in each]
    seconds = max(end for _, end in batches) - min(start for start, _ in batches)
    shards = ShardRecord.objects.filter(record_id=key).count()
    return Run(seconds=seconds, worked=[sum(end - start for start, end in each) for each in spans], shards=shards)


def _work(key: str, prepare: Callable[[], None], answers: Any) -> None:
    spans: list[tuple[float, float]] = []
    run_batch = AtomicBatchRunner.run

    def noted(*args: Any) -> Any:
        start = time.monotonic()
        try:
            return run_batch(*args)
        finally:
            spans.append((start, time.monotonic()))

    AtomicBatchRunner.run = noted  # type: ignore[method-assign]
    try:
        prepare()
        while True:
            payload = _queue.get()
            if payload is None:
                break
            perform(payload)
            if MigrationRecord.objects.filter(key=key, status__in=FINAL).exists():
                break
    finally:
        _queue.put(None)  # for the next
        answers.put(spans)
        connections.close_all()
