"""The page to which Cloud Tasks delivers jobs."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden, HttpResponseNotAllowed
from django.views.decorators.csrf import csrf_exempt

from massmigration import worker
from massmigration.exceptions import BadPayload
from massmigration_djangae import task_names
from massmigration_djangae.backend import CloudTasksBackend
from massmigration_djangae.exceptions import NotAuthentic
from massmigration_djangae.options import Options

logger = logging.getLogger(__name__)

LONGEST_BODY = 10_000
"""The longest body that is read, in bytes. Jobs have a few hundred."""

Proof = tuple[type[CloudTasksBackend], Options]

TASK_HEADERS = ("X-CloudTasks-TaskName", "X-AppEngine-TaskName")


@csrf_exempt
def run(request: HttpRequest) -> HttpResponse:
    """Run a job. Answer 200 if it is done or can never be, 403 if it is not from the queue, 503 to get it again."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        proven = _authenticate(request)
        payload = _body(request)
        _authenticate_for(payload, request, proven)
    except NotAuthentic as refusal:
        # Anybody can send a request: escape its text, so that it cannot start a new line in the log.
        logger.warning("Refused a request from %.100r: %.1000r", request.META.get("REMOTE_ADDR"), str(refusal))
        return HttpResponseForbidden("Refused. The reason is in the server's log.", content_type="text/plain")
    except Exception:
        logger.exception("A request could not be authenticated because of an error. Cloud Tasks will deliver it again.")
        return _answer("Try again later.", 503)
    return _perform(payload, next((request.headers[name] for name in TASK_HEADERS if name in request.headers), ""))


def _authenticate(request: HttpRequest) -> Proof:
    """Find a backend of the project whose queue sent the request, before the body is read."""
    refusals: dict[Proof, str] = {}
    for backend in worker.backends():
        if isinstance(backend, CloudTasksBackend) and _proof(backend) not in refusals:
            try:
                backend.authenticate(request)
            except NotAuthentic as refusal:
                refusals[_proof(backend)] = str(refusal)
            else:
                return _proof(backend)
    raise NotAuthentic(" ".join(refusals.values()) or "No backend of this project uses Cloud Tasks.")


def _authenticate_for(payload: str, request: HttpRequest, proven: Proof) -> None:
    """Check that the job's own backend also accepts the request."""
    backend = worker.backend_of(payload)
    if not isinstance(backend, CloudTasksBackend):
        raise NotAuthentic(f"The job's migration uses {type(backend).__qualname__}.")
    if _proof(backend) != proven:
        backend.authenticate(request)


def _proof(backend: CloudTasksBackend) -> Proof:
    """Return a value that is equal for backends that accept the same requests."""
    return type(backend), dataclasses.replace(backend.given, queue="", deadline=None)


def _perform(payload: str, task: str) -> HttpResponse:
    try:
        with task_names.running(task):
            worker.perform(payload)
    except BadPayload as error:
        # After any other answer, the task would come back forever.
        logger.error("Dropped task %.600r, which is not a job. %.1000r", task, str(error))
        return _answer("Dropped.")
    except Exception:
        logger.exception("Task %.600r raised an unexpected error. Cloud Tasks will deliver it again.", task)
        return _answer("Try again later.", 503)
    return _answer("Done.")


def _body(request: HttpRequest) -> str:
    """Return the body. If it is longer than any job, it is truncated, and will not parse as a job."""
    return request.read(LONGEST_BODY + 1)[:LONGEST_BODY].decode(errors="replace")


def _answer(text: str, status: int = 200) -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain")


def _exempt(view: Any) -> None:
    """Exempt the view from `ATOMIC_REQUESTS` and from `LoginRequiredMiddleware`."""
    for alias in connections:
        transaction.non_atomic_requests(using=alias)(view)
    view.login_required = False


_exempt(run)
