"""Names tasks, so that Cloud Tasks itself drops those that are sent twice.

What a delivery sends is named by a hash of the delivery's own task and the payload: delivered twice, it sends the same
names again. What nobody delivers, such as a launch, is named by chance. A number of the shard's would not do: a
job that finds its shard taken is sent again although nothing has changed, and the name of a task stays taken
for hours after its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator
from contextvars import ContextVar

from massmigration.exceptions import BadPayload
from massmigration.jobs import Job


class Delivery:
    """The task that this thread performs."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.sent: Counter[str] = Counter()


_current: ContextVar[Delivery | None] = ContextVar("massmigration_delivery", default=None)


@contextlib.contextmanager
def performing(task: str) -> Iterator[None]:
    """Within it, this thread performs the task of this name. Without a name, names are given by chance."""
    token = _current.set(Delivery(task) if task else None)
    try:
        yield
    finally:
        _current.reset(token)


def is_performing() -> bool:
    """Whether this thread performs a task."""
    return _current.get() is not None


def name_of(payload: str) -> str:
    """The last part of the name of the task that is to carry a payload.

    The hash comes first: the service wants names whose beginnings are spread evenly. Whose it is can be read behind.
    """
    delivery = _current.get()
    cause = str(uuid.uuid4())
    if delivery is not None:
        cause = f"{delivery.task} {delivery.sent[payload]}"
        delivery.sent[payload] += 1
    digest = hashlib.sha256(f"{cause} {payload}".encode()).hexdigest()[:32]
    return f"{digest}{_ending(payload)}"


def is_of_attempt(name: str, attempt_id: str) -> bool:
    """Whether a task of this name carries a job of this attempt."""
    return f"-{uuid.UUID(attempt_id).hex}-" in name


def _ending(payload: str) -> str:
    try:
        job = Job.loads(payload)
    except BadPayload:
        return ""
    return f"-{uuid.UUID(job.attempt_id).hex}-{job.kind.value}-{job.stage}-{job.shard}"
