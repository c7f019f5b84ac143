"""Places at which a worker kills or freezes itself, most of them between a commit and the send after it.

The environment variable MM_TEST_DIE_AT, or MM_TEST_FREEZE_AT, names the place.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from django.utils.module_loading import import_string

from massmigration.jobs import Job, JobKind
from massmigration.models import MigrationRecord
from massmigration.recorder import shards


@dataclasses.dataclass(frozen=True)
class Place:
    """A place before or after a call of the function `owner.name` that meets the condition."""

    owner: str
    name: str
    when: Callable[..., bool] = lambda *args, **kwargs: True
    is_after: bool = False


def _sends(kind: JobKind, stage: int) -> Callable[..., bool]:
    def meets(backend: Any, payload: str, delay: Any) -> bool:
        job = Job.loads(payload)
        return (job.kind, job.stage) == (kind, stage)

    return meets


def _sends_further_pass(backend: Any, payload: str, delay: Any) -> bool:
    job = Job.loads(payload)
    record = MigrationRecord.objects.using(job.db_alias).get(key=job.key)
    return job.kind == JobKind.PLAN and record.pass_number == 1


def _second_time(meets: Callable[..., bool]) -> Callable[..., bool]:
    times = itertools.count(1)
    return lambda *args, **fields: meets(*args, **fields) and next(times) == 2


def _sends_all(stage: int) -> Callable[..., bool]:
    return lambda backend, payloads, finish: Job.loads(finish).stage == stage


def _looks(stage: int, *, is_last: bool) -> Callable[..., bool]:
    return lambda job, *args: job.stage == stage and is_last == (not shards.open_shards(job))


def _tells(verb: str) -> Callable[..., bool]:
    return lambda db_alias, key, told, **fields: told == verb


LOCAL = "massmigration.backends.local.LocalBackend"
SHARD_JOB = "massmigration.executor.job"
SHARDS = "massmigration.recorder.shards"
EVENTS = "massmigration.recorder.events"

PLACES = {
    "plan not sent": Place(LOCAL, "send", _sends(JobKind.PLAN, 0)),
    "shard jobs not sent": Place(LOCAL, "send_all", _sends_all(0)),
    "second shard job not sent": Place(LOCAL, "send", _second_time(_sends(JobKind.SHARD, 0))),
    "claimed": Place(f"{SHARD_JOB}.shards", "claim", is_after=True),
    "checkpoint not written": Place(SHARDS, "save_checkpoint"),
    "checkpoint not committed": Place(SHARDS, "save_checkpoint", is_after=True),
    "batch committed": Place("massmigration.executor.atomic_batch.AtomicBatchRunner", "run", is_after=True),
    "step committed": Place("massmigration.executor.non_atomic_batch.NonAtomicBatchRunner", "run", is_after=True),
    "continuation not sent": Place(LOCAL, "send_continuation"),
    "first shard done": Place(SHARD_JOB, "finish", _looks(0, is_last=False)),
    "shard split": Place("massmigration.recorder.work_stealing", "_next_index", is_after=True),
    "part taken": Place(SHARD_JOB, "steal", is_after=True),
    "last shard done": Place(SHARD_JOB, "finish", _looks(0, is_last=True)),
    "next plan not sent": Place(LOCAL, "send", _sends(JobKind.PLAN, 1)),
    "next shard jobs not sent": Place(LOCAL, "send_all", _sends_all(1)),
    "next pass not sent": Place(LOCAL, "send", _sends_further_pass),
    "last stage done": Place(SHARD_JOB, "finish", _looks(1, is_last=True)),
    # Inside transactions.
    "planning": Place(EVENTS, "add", _tells("plan")),
    "looking at what is left": Place(EVENTS, "add", _tells("another pass")),
    "planning again": Place(EVENTS, "add", _second_time(_tells("plan"))),
    "looking": Place(EVENTS, "add", _tells("applied")),
    "taking": Place("massmigration.recorder.stuck", "_wait"),
    "taken by recovery": Place("massmigration.backends.worker.stuck", "take_stuck_jobs", is_after=True),
}


def arm() -> None:
    """Install the failpoint that the environment names."""
    for variable, number in (("MM_TEST_DIE_AT", signal.SIGKILL), ("MM_TEST_FREEZE_AT", signal.SIGSTOP)):
        if name := os.environ.get(variable):
            _wrap(PLACES[name], number)


def _wrap(place: Place, number: signal.Signals) -> None:
    owner = import_string(place.owner)
    function = getattr(owner, place.name)
    once = itertools.count()

    @wraps(function)
    def mortal(*args: Any, **kwargs: Any) -> Any:
        is_here = place.when(*args, **kwargs)
        if is_here and not place.is_after:
            _strike(number, once)
        result = function(*args, **kwargs)
        if is_here and place.is_after and result:
            _strike(number, once)
        return result

    setattr(owner, place.name, mortal)


def _strike(number: signal.Signals, once: Iterator[int]) -> None:
    if next(once) == 0:
        # Send it to this thread, which would otherwise continue until the main thread has stopped the process.
        signal.pthread_kill(threading.get_ident(), number)
