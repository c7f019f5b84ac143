"""The Celery backend."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from celery import Celery, Task, chord, current_app
from celery.backends.base import Backend
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore
from celery.loaders.default import Loader as NoApp
from django.core.checks import CheckMessage, Error, Info, Warning
from kombu.exceptions import ChannelError

from massmigration.backends.base import AdminAction, BackendHealth, BaseBackend, redis_problem
from massmigration.backends.capture import SendCapture
from massmigration.jobs import Job
from massmigration_celery import eager, tasks

logger = logging.getLogger(__name__)

OPTIONS = {"queue", "exchange", "routing_key", "priority", "headers", "compression", "time_limit", "soft_time_limit"}
NO_WORKER = (
    "No worker of the queue {queue!r} answered within a second. If none is running, start one: "
    "celery -A PROJECT worker -Q {queue}"
)
VISIBILITY_TIMEOUTS = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}  # in seconds, by default


def _describe(sender: Any, *args: Any, **kwargs: Any) -> str:
    return f"Celery task {sender.name if isinstance(sender, Task) else args[0]}"


def _stand_in(*args: Any, **kwargs: Any) -> Any:
    return current_app.AsyncResult("captured")


send_capture = SendCapture((Celery, "send_task"), (Task, "apply_async"), describe=_describe, stand_in=_stand_in)


class CeleryBackend(BaseBackend):
    """A backend that sends jobs as Celery tasks.

    The options are arguments of Celery's `apply_async`, for example `queue`, `priority` and `time_limit`.
    """

    max_delay = dt.timedelta(minutes=5)
    """A worker keeps a delayed task unacknowledged. RabbitMQ takes it back after `consumer_timeout`, Redis after
    `visibility_timeout`. After a longer wait, the recovery of a worker sends the job."""

    setting_prefixes = ("CELERY_",)

    @property
    def supports_delay(self) -> bool:  # type: ignore[override]
        """Whether tasks go to workers. Eager tasks cannot be delayed."""
        return not eager.is_eager()

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        signature = self._signature(payload, delay)
        if eager.is_eager():
            eager.run(signature)
        else:
            signature.apply_async()

    def send_all(self, payloads: Sequence[str], finish: str) -> None:
        if not self._why_no_chord():
            try:
                chord([self._part(payload) for payload in payloads])(self._signature(finish))
                return
            except Exception:
                logger.warning("Could not send a chord. Its jobs are sent as single tasks.", exc_info=True)
        super().send_all(payloads, finish)

    def send_continuation(self, payload: str, delay: dt.timedelta | None) -> None:
        request: Any = tasks.job.request
        if request.chord:
            try:
                tasks.job.replace(self._part(payload, delay))
            except Ignore:  # the continuation is sent; the task raises this when it ends
                request.is_replaced = True
                return
            except Exception:
                logger.warning("Could not replace a chord's task. The job continues as a single task.", exc_info=True)
        self.send(payload, delay)

    def stop_requested(self) -> bool:
        return bool(tasks.is_stopping[0])

    def hard_time_limit(self) -> dt.timedelta | None:
        names = ("time_limit", "soft_time_limit")
        limits = [getattr(whose, name, None) for whose in (tasks.job, tasks.this_worker) for name in names]
        limits += [self.options.get(name) for name in names] + [current_app.conf[f"task_{name}"] for name in names]
        return min((dt.timedelta(seconds=limit) for limit in limits if limit), default=None)

    def check(self) -> Iterator[CheckMessage]:
        conf = current_app.conf
        if unknown := sorted(self.options.keys() - OPTIONS):
            text = f"CeleryBackend does not have these options: {', '.join(unknown)}."
            hint = f"Remove them from MASSMIGRATION_BACKEND_OPTIONS. Allowed: {', '.join(sorted(OPTIONS))}."
            yield Error(text, hint=hint, id="massmigration_celery.E001")
        if isinstance(current_app.loader, NoApp) and not current_app.loader.configured:
            text = "This process has no Celery app, so Celery sends jobs to a RabbitMQ on this machine."
            hint = "Import the Celery app in the __init__.py of the project's package, as Celery's manual describes."
            yield Warning(text, hint=hint, id="massmigration_celery.W002")
        transport = str(conf.broker_write_url or conf.broker_url).partition(":")[0]
        visible = conf.broker_transport_options.get("visibility_timeout", VISIBILITY_TIMEOUTS.get(transport))
        if transport in VISIBILITY_TIMEOUTS and visible < 2 * self.job_duration().total_seconds():
            duration = self.job_duration()
            text = f"The broker's visibility_timeout ({visible} s) is less than twice a job's duration ({duration})."
            hint = "Increase it in broker_transport_options, or reduce MASSMIGRATION_JOB_DURATION."
            yield Warning(text, hint=hint, id="massmigration_celery.W001")
        if why := self._why_no_chord():
            text = "Shards are sent as single tasks instead of a chord. Migrations run the same way."
            yield Info(text, hint=why.partition("\n")[0], id="massmigration_celery.I001")

    def health(self) -> BackendHealth:
        with self._queue() as queue:
            memory = queue.channel.client.info("memory") if hasattr(queue.channel, "client") else {}
            queued = _length(queue)
        listening = current_app.control.inspect(timeout=1).active_queues() or {}
        workers = sum(queue.name in [each["name"] for each in theirs] for theirs in listening.values())
        problem = "" if workers else NO_WORKER.format(queue=queue.name)
        if memory.get("maxmemory"):
            problem = redis_problem(memory["maxmemory_policy"]) or problem
        details = {"queue": queue.name, "workers of all queues": len(listening)}
        return BackendHealth(workers=workers, queued=queued, details=details, problem=problem)

    def capture_sends(self) -> contextlib.AbstractContextManager[list[str]]:
        return send_capture.capture_sends()

    @property
    def admin_actions(self) -> Sequence[AdminAction]:  # type: ignore[override]
        what = "Removes the tasks of these runs from the queue and from the workers. Tasks that are running finish."
        revoke = AdminAction(name="revoke", label="Revoke queued Celery tasks", description=what, call=self._revoke)
        what = "Lists the tasks of these runs that workers are executing."
        show = AdminAction(name="show_workers", label="Show what Celery workers do", description=what, call=self._show)
        return [revoke, self.send_again, show]

    def _revoke(self, records: Sequence[Any], actor: str) -> str:
        fetched = [each["id"] for state in ("reserved", "scheduled") for _, each, _ in _at_workers(state, records)]
        current_app.control.revoke(fetched)
        with self._queue() as queue:
            found = [message for message in (queue.get() for _ in range(_length(queue))) if message]
            mine = [
                each for each in found if _job(each.headers.get("task"), lambda each=each: each.payload[0], records)
            ]
            for message in found:
                message.ack() if message in mine else message.requeue()
        return f"Revoked {len(mine)} tasks in queue {queue.name!r}, and {len(fetched)} that workers had fetched."

    def _show(self, records: Sequence[Any], actor: str) -> str:
        found = _at_workers("active", records)
        lines = [f"{worker}: {job.key}, {job.what}" for worker, _, job in found]
        return "; ".join(lines) or "No worker that answered runs a task of these migrations."

    @contextlib.contextmanager
    def _queue(self) -> Iterator[Any]:
        """Open the queue of the jobs, over a new connection."""
        with current_app.connection_for_write() as connection:
            yield current_app.amqp.router.route(dict(self.options), tasks.job.name)["queue"](connection.default_channel)

    def _signature(self, payload: str, delay: dt.timedelta | None = None, **more: Any) -> Any:
        options = {**self.options, **more, **({"countdown": delay.total_seconds()} if delay else {})}
        return tasks.job.si(payload).set(**options)

    def _part(self, payload: str, delay: dt.timedelta | None = None) -> Any:
        """Return a task of a chord. Redis counts the tasks itself; elsewhere, Celery counts their results."""
        return self._signature(payload, delay, ignore_result=isinstance(current_app.backend, RedisBackend))

    def _why_no_chord(self) -> str:
        if eager.is_eager():
            return "Tasks run where they are sent from, because task_always_eager is set."
        try:
            backend = current_app.backend
            backend.ensure_chords_allowed()
        except Exception as error:
            return str(error)
        if getattr(backend.apply_chord, "__func__", None) is Backend.apply_chord:
            name = type(backend).__name__
            return f"The result backend {name} does not count tasks. Celery would poll for a lost task forever."
        return ""


def _length(queue: Any) -> int:
    try:
        return int(queue.queue_declare(passive=True).message_count)
    except ChannelError:  # the queue does not exist yet
        return 0


def _job(task: str, arguments: Any, records: Sequence[Any]) -> Job | None:
    """Return the job in a task, or None if the task is not a job of these runs."""
    return Job.of(arguments()[0], [record.attempt_id for record in records]) if task == tasks.job.name else None


def _at_workers(state: str, records: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any], Job]]:
    """Yield these runs' active, reserved or scheduled tasks at the workers: name of the worker, task, job."""
    for worker, each in (getattr(current_app.control.inspect(timeout=1), state)() or {}).items():
        for task in (item.get("request", item) for item in each):
            if job := _job(task["name"], lambda task=task: task["args"], records):
                yield worker, task, job
