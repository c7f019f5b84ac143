"""Tasks that run where they are sent from, because the app sets `task_always_eager`."""

from __future__ import annotations

from typing import Any

from celery import current_app

from massmigration.backends.immediate import InOrder

_tasks = InOrder()


def is_eager() -> bool:
    """Return whether tasks run where they are sent from."""
    return bool(current_app.conf.task_always_eager)


def run(signature: Any) -> None:
    """Run a task, and after it the tasks that it sends."""
    _tasks.run(signature.apply_async)
