"""The life of a migration record: its statuses, and every move allowed between them."""

from __future__ import annotations

from django.db.models import TextChoices


class Status(TextChoices):
    """Where a migration stands on one database. No record means that it was never launched."""

    QUEUED = "queued"  # launched; the present stage has not been planned
    RUNNING = "running"  # planned at least once; workers may work at shards
    PAUSED = "paused"  # an operator stopped it; resume goes on from the cursors
    FAILED = "failed"  # an operation raised; retry goes on from the cursors
    CANCELLED = "cancelled"  # an operator gave it up; retry goes on from the cursors
    APPLIED = "applied"  # every object was processed


TRANSITIONS: dict[Status, frozenset[Status]] = {
    # Queued to applied does not exist: even an empty queryset is planned first.
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.CANCELLED, Status.FAILED, Status.APPLIED}),
    # Paused to running: the stage was planned before the pause; otherwise back to queued. To applied by a fake.
    Status.PAUSED: frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELLED, Status.APPLIED}),
    # Out of failed and cancelled only by a new attempt: a retry, a restart, or a fake, which alone makes them applied.
    Status.FAILED: frozenset({Status.QUEUED, Status.RUNNING, Status.APPLIED}),
    Status.CANCELLED: frozenset({Status.QUEUED, Status.RUNNING, Status.APPLIED}),
    Status.APPLIED: frozenset(),
}

ACTIVE = frozenset({Status.QUEUED, Status.RUNNING})
"""A worker may be at it now."""

FINAL = frozenset({Status.APPLIED, Status.FAILED, Status.CANCELLED})
"""The attempt is over."""


def sources_of(target: Status) -> frozenset[Status]:
    """The statuses from which a record may move to `target`."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)
