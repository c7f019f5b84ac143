"""Actions of operators in other processes, and their required effects on any queue."""

from __future__ import annotations

from collections.abc import Callable

from massmigration.models import Event, ShardRecord
from testsupport import oracle
from testsupport.fleet import SLOW, ProcessFleet
from testsupport.worker_processes import wait_until

NAME = ["testapp", "0004_by_batch"]


def leased_shards(db_alias: str) -> int:
    """Return how many shards workers hold at this moment."""
    return ShardRecord.objects.using(db_alias).filter(is_done=False, lease_token__isnull=False).count()


def pause_resume_and_cancel(fleet: ProcessFleet, *, batch: int, one_more: Callable[[], object]) -> None:
    """Pause, resume and cancel a run with long batches. `one_more` starts a worker, which runs recovery."""
    db_alias, workers = fleet.db_alias, len(fleet.alive())
    arguments = [*NAME, "--database", db_alias]

    assert fleet.run("massmigration", "pause", *arguments).returncode == 0
    done = fleet.done()
    wait_until(lambda: not leased_shards(db_alias), timeout=SLOW)
    paused_at = fleet.done()
    assert paused_at - done <= workers * batch

    assert fleet.run("massmigration", "resume", *arguments).returncode == 0
    wait_until(lambda: fleet.done() > paused_at, timeout=SLOW)

    assert fleet.run("massmigration", "cancel", *arguments).returncode == 0
    wait_until(lambda: not leased_shards(db_alias), timeout=SLOW)
    cancelled_at = fleet.done()
    one_more()
    assert fleet.status() == "cancelled"
    assert fleet.done() == cancelled_at

    assert oracle.counts(db_alias) == [0, 1]
    assert oracle.rows_counted(db_alias) == cancelled_at
    events = Event.objects.using(db_alias).filter(actor__startswith="command:").order_by("pk")
    assert list(events.values_list("verb", flat=True)) == ["pause", "resume", "cancel"]
