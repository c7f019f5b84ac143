"""The admin actions on a queue of Cloud Tasks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from massmigration.backends.base import AdminAction
from massmigration.worker import recover
from massmigration_djangae import queues, task_names
from massmigration_djangae.errors import translated
from massmigration_djangae.options import Options

SHOWN = 20
ACTIVE = ("queued", "running")


def admin_actions(options: Options, send: Callable[[str, dt.timedelta | None], None]) -> list[AdminAction]:
    """Return the actions of a backend with these options. `send` is the backend's own."""

    def control(command: str, state: str) -> Callable[[Sequence[Any], str], str]:
        def act(records: Sequence[Any], actor: str) -> str:
            with translated(options, f"{command} the queue"):
                queues.control(options, command)
            return f"The queue {options.queue} is {state}."

        return act

    def tasks_of(records: Sequence[Any]) -> dict[str, list[str]]:
        with translated(options, "list the tasks"):
            names = list(queues.task_names(options))
        return {
            record.key: [name for name in names if task_names.is_of_attempt(name, str(record.attempt_id))]
            for record in records
        }

    def list_tasks(records: Sequence[Any], actor: str) -> str:
        return " ".join(_line(key, names) for key, names in tasks_of(records).items())

    def send_lost(records: Sequence[Any], actor: str) -> str:
        found = tasks_of(records)
        lost = [record for record in records if record.status in ACTIVE and not found[record.key]]
        for record in lost:
            send(record.job().dumps(), None)
        runs, jobs = _counted(len(lost), "run"), _counted(recover(), "overdue job")
        return f"Sent again: {runs} without a task in the queue, and {jobs}."

    queue = f"the queue {options.queue}, including the tasks of other code"
    return [
        AdminAction(
            name="pause_queue",
            label="Pause the queue",
            description=f"Pauses {queue}.",
            call=control("pause", "paused"),
        ),
        AdminAction(
            name="resume_queue",
            label="Resume the queue",
            description=f"Resumes {queue}.",
            call=control("resume", "running"),
        ),
        AdminAction(
            name="purge_queue",
            label="Purge the queue",
            description=f"Deletes every task of {queue}. You can send the jobs of migrations again.",
            call=control("purge", "being emptied"),
        ),
        AdminAction(
            name="list_tasks",
            label="List the tasks of this run",
            description="Lists the tasks of these migrations in the queue.",
            call=list_tasks,
            asks=False,
        ),
        AdminAction(
            name="send_lost",
            label="Send lost shards again",
            description="Sends a job for every run that has no task in the queue, and for every overdue shard.",
            call=send_lost,
        ),
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _line(key: str, names: Sequence[str]) -> str:
    jobs = sorted(name.split("-", 2)[2] for name in names)
    more = f" and {len(jobs) - SHOWN} more" if len(jobs) > SHOWN else ""
    return f"{key}: {len(jobs)} tasks{': ' if jobs else ''}{', '.join(jobs[:SHOWN])}{more}."
