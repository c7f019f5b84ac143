"""Names of tasks, which let Cloud Tasks itself drop duplicates.

The name of a task that a running task sends is a hash of the running task's name and the payload: if the running task
is delivered twice, the second delivery sends the same names. All other tasks, such as the first task of a launch, get
random names. The shard's number would not do as a name: a job that finds its shard claimed is sent again unchanged,
and Cloud Tasks reserves a name for hours after the task has ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar

from massmigration.exceptions import BadPayload
from massmigration.jobs import Job


class CurrentTask:
    """The task that this thread is running, and how often it has sent each payload."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: Counter[str] = Counter()


_current: ContextVar[CurrentTask | None] = ContextVar("massmigration_current_task", default=None)


@contextlib.contextmanager
def running(name: str) -> Iterator[None]:
    """Mark this thread as running the task of this name, for a block. If it is empty, new tasks get random names."""
    token = _current.set(CurrentTask(name) if name else None)
    try:
        yield
    finally:
        _current.reset(token)


def is_running() -> bool:
    """Return whether this thread is running a task."""
    return _current.get() is not None


def name_of(payload: str) -> str:
    """Return the last part of the name of a new task for a payload.

    It begins with the hash, because Cloud Tasks is slow if many names begin alike. The attempt and the job follow in
    readable form.
    """
    task = _current.get()
    source = str(uuid.uuid4())
    same = _without_ticket(payload)
    if task is not None:
        source = f"{task.name} {task.sent[same]}"
        task.sent[same] += 1
    digest = hashlib.sha256(f"{source} {same}".encode()).hexdigest()[:32]
    return f"{digest}{_suffix(payload)}"


def is_of_attempt(name: str, attempt_id: str) -> bool:
    """Return whether a task of this name has a job of this attempt."""
    return f"-{uuid.UUID(attempt_id).hex}-" in name


def _without_ticket(payload: str) -> str:
    """Return the payload without its ticket, which is different each time that the same task sends the job."""
    try:
        return dataclasses.replace(Job.loads(payload), ticket="", after="").dumps()
    except BadPayload:
        return payload


def _suffix(payload: str) -> str:
    try:
        job = Job.loads(payload)
    except BadPayload:
        return ""
    return f"-{uuid.UUID(job.attempt_id).hex}-{job.kind.value}-{job.stage}-{job.shard}"
