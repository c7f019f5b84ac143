"""Receives jobs from Cloud Tasks and works at them."""

from __future__ import annotations

import logging
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden, HttpResponseNotAllowed
from django.views.decorators.csrf import csrf_exempt

from massmigration import worker
from massmigration.exceptions import BadPayload
from massmigration_djangae import deliveries
from massmigration_djangae.backend import CloudTasksBackend
from massmigration_djangae.exceptions import NotAuthentic

logger = logging.getLogger(__name__)

LONGEST_BODY = 10_000
"""Bytes; jobs have a few hundred."""

TASK_HEADERS = ("X-CloudTasks-TaskName", "X-AppEngine-TaskName")


@csrf_exempt
def run(request: HttpRequest) -> HttpResponse:
    """Work at a job. 200: done, or never to be done; 403: not from the queue; 503: to be delivered again."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    payload = _body(request)
    try:
        backend = worker.backend_of(payload)
        if not isinstance(backend, CloudTasksBackend):
            raise NotAuthentic(f"Jobs are carried by {type(backend).__qualname__} here.")
        backend.authenticate(request)
    except NotAuthentic as refusal:
        logger.warning("Refused a request from %s: %s", request.META.get("REMOTE_ADDR"), refusal)
        return HttpResponseForbidden("Refused; the server's log says why.", content_type="text/plain")
    except Exception:
        logger.exception("A request could not be authenticated; it is to be delivered again.")
        return _answer("Try again later.", 503)
    return _perform(payload, next((request.headers[name] for name in TASK_HEADERS if name in request.headers), ""))


def _perform(payload: str, task: str) -> HttpResponse:
    try:
        with deliveries.performing(task):
            worker.perform(payload)
    except BadPayload as error:
        # Any other answer would bring it back for ever.
        logger.error("Dropped task %s: %s", task, error)
        return _answer("Dropped.")
    except Exception:
        logger.exception("Task %s ended in an unforeseen error; it is to be delivered again.", task)
        return _answer("Try again later.", 503)
    return _answer("Done.")


def _body(request: HttpRequest) -> str:
    """What was sent; cut off where no job would be as long, and then none."""
    return request.read(LONGEST_BODY + 1)[:LONGEST_BODY].decode(errors="replace")


def _answer(text: str, status: int = 200) -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain")


def _open_to_the_queue(view: Any) -> None:
    """Neither ATOMIC_REQUESTS nor a login that is required everywhere may come between."""
    for alias in connections:
        transaction.non_atomic_requests(using=alias)(view)
    view.login_required = False


_open_to_the_queue(run)
