"""Translation of the errors of Google's libraries into messages that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from google.api_core import exceptions as api_exceptions
from google.auth import exceptions as auth_exceptions

from massmigration_djangae.exceptions import QueueRefused
from massmigration_djangae.options import Options

AFTERWARDS = "Then run: manage.py massmigrate --recover"


@contextlib.contextmanager
def translated(options: Options, action: str) -> Iterator[None]:
    """Raise `QueueRefused` for an error of Google's libraries, with what was found and what to do next.

    `action` completes the sentence "Could not …".
    """
    try:
        yield
    except (api_exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError) as error:
        raise QueueRefused(f"Could not {action}: {_explanation(error, options)} {AFTERWARDS}") from error


def _explanation(error: Exception, options: Options) -> str:
    where = f"queue {options.queue!r} in location {options.location!r} of project {options.project!r}"
    message = getattr(error, "message", None) or str(error)
    if isinstance(error, auth_exceptions.GoogleAuthError):
        return (
            f"there are no usable Google credentials here ({message}). Run as a service account, or run: "
            "gcloud auth application-default login"
        )
    if isinstance(error, (api_exceptions.PermissionDenied, api_exceptions.Unauthenticated)):
        return (
            f"this account lacks a permission for {where} ({message}). Grant it roles/cloudtasks.enqueuer on the "
            "queue, and roles/iam.serviceAccountUser on the account that requests are signed for."
        )
    if isinstance(error, (api_exceptions.NotFound, api_exceptions.FailedPrecondition, api_exceptions.InvalidArgument)):
        return (
            f"Cloud Tasks does not accept {where} ({message}). Correct the project, location or queue, or create it: "
            f"gcloud tasks queues create {options.queue} --project={options.project} --location={options.location}"
        )
    if isinstance(error, (api_exceptions.RetryError, api_exceptions.ServerError, api_exceptions.TooManyRequests)):
        return (
            f"Cloud Tasks cannot be reached, or temporarily refuses requests, for {where} ({message}). "
            "Wait until it answers."
        )
    return f"Cloud Tasks answered for {where}: {type(error).__name__}: {message}. Solve that problem first."
