"""Lets a worker die by SIGKILL exactly where it hurts: around a commit, above all between it and the send after it.

The environment variable MM_TEST_DIE_AT names the gap.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.utils.module_loading import import_string

from massmigration.jobs import Job, JobKind
from massmigration.recorder import shards


@dataclasses.dataclass(frozen=True)
class Death:
    """Before or after a call of the function `owner.name` that meets the condition."""

    owner: str
    name: str
    when: Callable[..., bool] = lambda *args, **kwargs: True
    is_after: bool = False


def _sends(kind: JobKind, stage: int) -> Callable[..., bool]:
    def meets(backend: Any, payload: str, delay: Any) -> bool:
        job = Job.loads(payload)
        return (job.kind, job.stage) == (kind, stage)

    return meets


def _second_time(meets: Callable[..., bool]) -> Callable[..., bool]:
    times = itertools.count(1)
    return lambda *args: meets(*args) and next(times) == 2


def _sends_all(stage: int) -> Callable[..., bool]:
    return lambda backend, payloads, finish: Job.loads(finish).stage == stage


def _looks(stage: int, *, is_last: bool) -> Callable[..., bool]:
    return lambda job, *args: job.stage == stage and is_last == (not shards.undone(job))


LOCAL = "massmigration.backends.local.LocalBackend"
SHARD_JOB = "massmigration.executor.shard_job"
BATCH_SHARDS = "massmigration.executor.batch.shards"

DEATHS = {
    "plan not sent": Death(LOCAL, "send", _sends(JobKind.PLAN, 0)),
    "shard jobs not sent": Death(LOCAL, "send_all", _sends_all(0)),
    "second shard job not sent": Death(LOCAL, "send", _second_time(_sends(JobKind.SHARD, 0))),
    "claimed": Death(f"{SHARD_JOB}.shards", "claim", is_after=True),
    "checkpoint not written": Death(BATCH_SHARDS, "end_batch"),
    "checkpoint not committed": Death(BATCH_SHARDS, "end_batch", is_after=True),
    "batch committed": Death("massmigration.executor.batch.AtomicBatch", "run", is_after=True),
    "continuation not sent": Death(LOCAL, "send_continuation"),
    "first shard done": Death(SHARD_JOB, "finish", _looks(0, is_last=False)),
    "last shard done": Death(SHARD_JOB, "finish", _looks(0, is_last=True)),
    "next plan not sent": Death(LOCAL, "send", _sends(JobKind.PLAN, 1)),
    "next shard jobs not sent": Death(LOCAL, "send_all", _sends_all(1)),
    "last stage done": Death(SHARD_JOB, "finish", _looks(1, is_last=True)),
    "taken by a healer": Death("massmigration.backends.healing.due", "take", is_after=True),
}


def arm() -> None:
    """Set up the death that the environment asks for."""
    if name := os.environ.get("MM_TEST_DIE_AT"):
        _wrap(DEATHS[name])


def _wrap(death: Death) -> None:
    owner = import_string(death.owner)
    function = getattr(owner, death.name)

    @wraps(function)
    def mortal(*args: Any, **kwargs: Any) -> Any:
        dies = death.when(*args, **kwargs)
        if dies and not death.is_after:
            die()
        result = function(*args, **kwargs)
        if dies and result:
            die()
        return result

    setattr(owner, death.name, mortal)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
