"""The life of a migration record: its statuses, and every move allowed between them."""

from __future__ import annotations

from django.db.models import TextChoices


class Status(TextChoices):
    """The status of a migration on one database. No record means that it was never launched."""

    QUEUED = "queued"  # launched; the present stage has not been planned
    RUNNING = "running"  # planned at least once; workers may work at shards
    WAITING = "waiting"  # the current stage waits for an operator; proceed ends it
    PAUSED = "paused"  # stopped by an operator; resume continues from the cursors
    FAILED = "failed"  # an operation raised; retry continues from the cursors
    CANCELLED = "cancelled"  # ended by an operator; retry continues from the cursors
    APPLIED = "applied"  # every object was processed


TRANSITIONS: dict[Status, frozenset[Status]] = {
    # Queued to applied does not exist: even an empty queryset is planned first.
    Status.QUEUED: frozenset({Status.RUNNING, Status.WAITING, Status.PAUSED, Status.CANCELLED, Status.FAILED}),
    Status.RUNNING: frozenset({Status.WAITING, Status.PAUSED, Status.CANCELLED, Status.FAILED, Status.APPLIED}),
    # Not to paused: no worker works on it, and only an operator ends the wait. To applied by a fake.
    Status.WAITING: frozenset({Status.RUNNING, Status.CANCELLED, Status.APPLIED}),
    # Paused to running: the stage was planned before the pause; otherwise back to queued. To applied by a fake.
    Status.PAUSED: frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELLED, Status.APPLIED}),
    # Out of failed and cancelled only by a new attempt: a retry, a restart, or a fake, which alone makes them applied.
    Status.FAILED: frozenset({Status.QUEUED, Status.RUNNING, Status.APPLIED}),
    Status.CANCELLED: frozenset({Status.QUEUED, Status.RUNNING, Status.APPLIED}),
    Status.APPLIED: frozenset(),
}

ACTIVE = frozenset({Status.QUEUED, Status.RUNNING})
"""A worker may be processing it now."""

FINAL = frozenset({Status.APPLIED, Status.FAILED, Status.CANCELLED})
"""The attempt is over."""


def command_for(status: Status | None) -> str:
    """Return the name of the command that continues a migration with this status."""
    return "massmigration proceed" if status is Status.WAITING else "massmigrate"


def sources_of(target: Status) -> frozenset[Status]:
    """Return the statuses from which a record may move to `target`."""
    return frozenset(source for source, targets in TRANSITIONS.items() if target in targets)
