"""The RQ backend."""

import contextlib
import datetime as dt
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Info
from redis import RedisError
from rq import Queue, Retry, Worker, get_current_job
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Dependency
from rq.scheduler import RQScheduler
from rq.serializers import DefaultSerializer

from massmigration.backends.base import AdminAction, BackendHealth, BaseBackend, redis_problem
from massmigration.backends.capture import SendCapture
from massmigration.exceptions import BadBackend
from massmigration.jobs import Job
from massmigration_rq import queues

PERFORM = "massmigration_rq.jobs.perform"
DEFAULTS = {"queue": "default", "url": None, "serializer": None, "job_timeout": 3600, "retries": 3}
FEW = 100  # the most jobs that a finish job may depend on: whenever one of them ends, RQ reads the state of all
WEEK = 7 * 24 * 3600  # seconds that RQ keeps failed jobs, and finish jobs whose shards never end

send_capture = SendCapture(
    *((Queue, name) for name in ("enqueue_job", "enqueue_many", "schedule_job")),
    describe=lambda queue, jobs, *args, **kwargs: f"{queue.name}: {getattr(jobs, 'description', 'several jobs')}",
    stand_in=lambda queue, jobs, *args, **kwargs: jobs,
)


class RQBackend(BaseBackend):
    """A backend that sends jobs to a queue of RQ.

    Options: `queue`, `url`, `serializer`, `job_timeout` (in seconds, default an hour), and `retries` (default 3).
    """

    setting_prefixes = ("RQ_",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        name, url, serializer, self.job_timeout, self.retries, *unknown = {**DEFAULTS, **options}.values()
        if unknown or not all(isinstance(each, int) and each > 0 for each in (self.job_timeout, self.retries + 1)):
            raise BadBackend(
                f"RQBackend got the options {options!r}. Its options are queue, url, serializer, job_timeout (at least "
                "1 second) and retries (at least 0). Correct MASSMIGRATION_BACKEND_OPTIONS, or the migration's "
                "backend_params."
            )
        self.queue = queues.find(name, url, serializer)

    @property
    def supports_delay(self) -> bool:  # type: ignore[override]
        """Whether a scheduler is running: it holds a lock, which expires within a minute after it has ended."""
        with contextlib.suppress(RedisError):
            return bool(self.queue.connection.exists(RQScheduler.get_locking_key(self.queue.name)))
        return False

    def send(self, payload: str, delay: dt.timedelta | None) -> None:
        more = self._more(payload)
        if delay:
            self.queue.enqueue_in(delay, PERFORM, args=[payload], job_timeout=self.job_timeout, **more)
        else:
            self.queue.enqueue_call(PERFORM, args=[payload], timeout=self.job_timeout, **more)

    def send_all(self, payloads: Sequence[str], finish: str) -> None:
        prepare, timeout = self.queue.prepare_data, self.job_timeout
        jobs = [prepare(PERFORM, args=[each], timeout=timeout, **self._more(each)) for each in payloads]
        sent = self.queue.enqueue_many(jobs)
        if len(sent) <= FEW:
            after = Dependency(jobs=sent, allow_failure=True)
            more = {**self._more(finish), "depends_on": after, "ttl": WEEK}
            self.queue.enqueue_call(PERFORM, args=[finish], timeout=timeout, **more)

    def stop_requested(self) -> bool:
        """Return whether the worker has noted in Redis that it was asked to stop; its processes read that there."""
        if job := get_current_job():
            key = f"{Worker.redis_worker_namespace_prefix}{job.worker_name}"
            with contextlib.suppress(RedisError):
                return bool(job.connection.hexists(key, "shutdown_requested_date"))
        return False

    def hard_time_limit(self) -> dt.timedelta:
        return dt.timedelta(seconds=self.job_timeout)

    def check(self) -> Iterator[CheckMessage]:
        if self.queue.serializer is DefaultSerializer:
            yield Info(
                f"RQ pickles the jobs in queue {self.queue.name!r}.",
                hint="Set the option serializer, or SERIALIZER in RQ_QUEUES, to 'rq.serializers.JSONSerializer', "
                "and start the workers of this queue with --serializer rq.serializers.JSONSerializer.",
                id="massmigration_rq.I001",
            )

    def health(self) -> BackendHealth:
        workers = len(Worker.all(queue=self.queue))
        counts = {place: len(queues.ids(self.queue, place)) for place in queues.PLACES}
        name = self.queue.name
        problem = "" if workers else f"No RQ worker listens to the queue {name!r}. Start one for this queue."
        problem = redis_problem(self.queue.connection.info("memory").get("maxmemory_policy", "")) or problem
        details = {**counts, "scheduler": "runs" if self.supports_delay else "none"}
        return BackendHealth(workers=workers, queued=counts["queued"], details=details, problem=problem)

    def capture_sends(self) -> contextlib.AbstractContextManager[list[str]]:
        return send_capture.capture_sends()

    @property
    def admin_actions(self) -> Sequence[AdminAction]:  # type: ignore[override]
        """The actions, made on each access: a stored list would form a reference cycle with the connection."""
        what = "Shows which jobs of these runs are in RQ, and where."
        show = AdminAction(name="show_jobs", label="Show RQ's jobs", description=what, call=self._show)
        what = "Puts failed jobs of these runs back into RQ's queue."
        requeue = AdminAction(name="requeue", label="Requeue failed RQ jobs", description=what, call=self._requeue)
        what = "Deletes waiting jobs of these runs. Recovery sends them again unless the runs are paused or cancelled."
        delete = AdminAction(name="delete_jobs", label="Delete queued RQ jobs", description=what, call=self._delete)
        return [show, requeue, delete, self.send_again]

    def _show(self, records: Sequence[Any], actor: str) -> str:
        found = queues.jobs(self.queue, records, *queues.PLACES)
        return "; ".join(f"{place}: {job.description}" for place, job in found) or "RQ has no jobs of these migrations."

    def _requeue(self, records: Sequence[Any], actor: str) -> str:
        count = 0
        for _, job in queues.jobs(self.queue, records, "failed"):
            with contextlib.suppress(InvalidJobOperation, NoSuchJobError):  # requeued or deleted meanwhile
                job.requeue()
                count += 1
        return f"Requeued {count} failed {'job' if count == 1 else 'jobs'} in RQ's queue {self.queue.name!r}."

    def _delete(self, records: Sequence[Any], actor: str) -> str:
        found = [job for _, job in queues.jobs(self.queue, records, "queued", "scheduled", "deferred")]
        for job in found:
            job.delete()
        return f"Deleted {len(found)} {'job' if len(found) == 1 else 'jobs'} from RQ's queue {self.queue.name!r}."

    def _more(self, payload: str) -> dict[str, Any]:
        job = Job.loads(payload)
        return {
            "job_id": f"{queues.prefix(job.attempt_id)}{uuid.uuid4().hex}",
            "description": f"massmigration {job.key}, {job.what}",
            "result_ttl": 0,
            "failure_ttl": WEEK,
            "retry": Retry(max=self.retries) if self.retries else None,
        }
