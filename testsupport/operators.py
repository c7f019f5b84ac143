"""What operators do to a run from processes of their own, and what must come of it on any queue."""

from __future__ import annotations

from collections.abc import Callable

from massmigration.models import Event, ShardRecord
from testsupport import oracle
from testsupport.fleet import SLOW, ProcessFleet
from testsupport.workers import wait_until

NAME = ["testapp", "0004_by_batch"]


def held(db_alias: str) -> int:
    """How many shards a worker has at this moment."""
    return ShardRecord.objects.using(db_alias).filter(is_done=False, lease_token__isnull=False).count()


def pause_resume_and_cancel(fleet: ProcessFleet, *, batch: int, one_more: Callable[[], object]) -> None:
    """Do it to a run that has begun, whose jobs and batches last long. `one_more` starts a worker, which heals."""
    db_alias, workers = fleet.db_alias, len(fleet.alive())
    arguments = [*NAME, "--database", db_alias]

    assert fleet.run("massmigration", "pause", *arguments).returncode == 0
    done = fleet.done()
    wait_until(lambda: not held(db_alias), timeout=SLOW)
    paused_at = fleet.done()
    assert paused_at - done <= workers * batch

    assert fleet.run("massmigration", "resume", *arguments).returncode == 0
    wait_until(lambda: fleet.done() > paused_at, timeout=SLOW)

    assert fleet.run("massmigration", "cancel", *arguments).returncode == 0
    wait_until(lambda: not held(db_alias), timeout=SLOW)
    cancelled_at = fleet.done()
    one_more()
    assert fleet.status() == "cancelled"
    assert fleet.done() == cancelled_at

    assert oracle.counts(db_alias) == [0, 1]
    assert oracle.rows_counted(db_alias) == cancelled_at
    events = Event.objects.using(db_alias).filter(actor__startswith="command:").order_by("pk")
    assert list(events.values_list("verb", flat=True)) == ["pause", "resume", "cancel"]
