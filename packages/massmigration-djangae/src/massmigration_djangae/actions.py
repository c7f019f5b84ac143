"""What operators can do with the queue from the admin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from massmigration.backends.base import AdminAction
from massmigration.jobs import Job, JobKind
from massmigration.worker import recover
from massmigration_djangae import deliveries, queues
from massmigration_djangae.problems import explained

if TYPE_CHECKING:
    from massmigration_djangae.backend import CloudTasksBackend

SHOWN = 20
ACTIVE = ("queued", "running")


def admin_actions(backend: CloudTasksBackend) -> list[AdminAction]:
    """The actions of one backend, on its own queue."""
    options = backend.given

    def steer(verb: str, said: str) -> Callable[[Sequence[Any], str], str]:
        def act(records: Sequence[Any], actor: str) -> str:
            with explained(options, f"{verb} the queue"):
                queues.steer(options, verb)
            return f"The queue {options.queue} is {said}."

        return act

    def tasks_of(records: Sequence[Any]) -> dict[str, list[str]]:
        with explained(options, "list the tasks"):
            names = list(queues.task_names(options))
        return {
            record.key: [name for name in names if deliveries.is_of_attempt(name, str(record.attempt_id))]
            for record in records
        }

    def list_tasks(records: Sequence[Any], actor: str) -> str:
        return " ".join(_told(key, names) for key, names in tasks_of(records).items())

    def send_lost(records: Sequence[Any], actor: str) -> str:
        found = tasks_of(records)
        lost = [record for record in records if record.status in ACTIVE and not found[record.key]]
        for record in lost:
            backend.send(_plan(record).dumps(), None)
        return f"Sent again: {len(lost)} runs without a task in the queue, and {recover()} jobs that were overdue."

    queue = f"the queue {options.queue}, whoever's tasks are in it"
    return [
        AdminAction(
            name="pause_queue",
            label="Pause the queue",
            description=f"pause {queue}",
            call=steer("pause", "paused"),
        ),
        AdminAction(
            name="resume_queue",
            label="Resume the queue",
            description=f"resume {queue}",
            call=steer("resume", "running"),
        ),
        AdminAction(
            name="purge_queue",
            label="Purge the queue",
            description=f"delete every task of {queue}; the shards' jobs can be sent again",
            call=steer("purge", "being emptied"),
        ),
        AdminAction(
            name="list_tasks",
            label="List the tasks of this run",
            description="list the tasks that the queue has of these migrations",
            call=list_tasks,
            asks=False,
        ),
        AdminAction(
            name="send_lost",
            label="Send lost shards again",
            description="send the jobs again of runs that have no task in the queue, and of shards that are overdue",
            call=send_lost,
        ),
    ]


def _told(key: str, names: Sequence[str]) -> str:
    what = sorted(name.split("-", 2)[2] for name in names)
    more = f" and {len(what) - SHOWN} more" if len(what) > SHOWN else ""
    return f"{key}: {len(what)} tasks{': ' if what else ''}{', '.join(what[:SHOWN])}{more}."


def _plan(record: Any) -> Job:
    """A plan's job, which sends all that is not done."""
    return Job(
        kind=JobKind.PLAN,
        key=record.key,
        db_alias=record._state.db,
        attempt_id=str(record.attempt_id),
        stage=record.stage,
    )
