"""System checks: what can be known to be wrong with a backend's options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.urls import Resolver404, resolve

from massmigration_djangae import auth
from massmigration_djangae.exceptions import QueueRefused
from massmigration_djangae.options import NAMES

if TYPE_CHECKING:
    from massmigration_djangae.backend import CloudTasksBackend

OPTIONS = "MASSMIGRATION_BACKEND_OPTIONS"
VIEW = "massmigration_djangae:run"
INCLUDE = 'Add to the URLconf: path("massmigration/", include("massmigration_djangae.urls"))'


def check(backend: CloudTasksBackend) -> Iterator[CheckMessage]:
    """Everything that one backend can say of itself."""
    for name in _missing(backend):
        yield Error(f"{_name(backend)} lacks the option {name!r}.", hint=_advice(name), id="massmigration_djangae.E001")
    if backend.given.verifier == auth.DEVELOPMENT and not settings.DEBUG:
        yield Error(
            "The option 'verifier' is the development verifier, which lets everybody in, and DEBUG is False.",
            hint="Set it only in the settings of development. It lets nobody in as it is.",
            id="massmigration_djangae.E002",
        )
    yield from _deadline(backend)
    yield from _unknown(backend)
    yield from backend.problems_of_target()


def refuse_incomplete(backend: CloudTasksBackend) -> None:
    """Raise `QueueRefused` when there is no queue, or nowhere to deliver to."""
    missing = _missing(backend)
    if missing:
        raise QueueRefused(
            f"Cannot send: {_name(backend)} lacks {', '.join(map(repr, missing))}. {_advice(missing[0])} "
            "Then run: manage.py massmigrate --recover"
        )


def of_http_target(backend: CloudTasksBackend) -> Iterator[CheckMessage]:
    """What is wrong with the `url`."""
    url = urlsplit(backend.given.url)
    if not backend.given.url:
        return
    if url.scheme != "https" and not backend.given.emulator:
        yield Error(
            f"The option 'url' is {backend.given.url!r}; it must begin with https://, or tokens travel in the open.",
            hint="Only an emulator may deliver to http://.",
            id="massmigration_djangae.E004",
        )
    if not _is_served(url.path):
        yield Warning(
            f"The option 'url' is {backend.given.url!r}, and this project's URLconf does not lead there to "
            "massmigration_djangae's page.",
            hint=f"{INCLUDE}. If another service of the same code receives, silence this.",
            id="massmigration_djangae.W003",
        )
    if url.scheme == "http":
        yield from of_redirects(url.path)


def of_redirects(path: str) -> Iterator[CheckMessage]:
    """W004: what comes by http is sent elsewhere, which the service does not follow."""
    exempt = getattr(settings, "SECURE_REDIRECT_EXEMPT", [])
    if settings.SECURE_SSL_REDIRECT and not any(re.search(pattern, path.lstrip("/")) for pattern in exempt):
        yield Warning(
            f"SECURE_SSL_REDIRECT redirects deliveries to {path!r}, and Cloud Tasks follows no redirects.",
            hint=f"Add to SECURE_REDIRECT_EXEMPT: r'^{path.lstrip('/')}$'",
            id="massmigration_djangae.W004",
        )


def _missing(backend: CloudTasksBackend) -> list[str]:
    return [name for name in backend.required() if not getattr(backend.given, name)]


def _advice(name: str) -> str:
    advice = {
        "url": f"Set it in {OPTIONS} to the full address of massmigration_djangae's page. {INCLUDE}",
        "service_account": f"Set it in {OPTIONS} to the e-mail address of the account that requests are signed for.",
        "location": f"Set it in {OPTIONS} to the queue's location, as in 'europe-west1'.",
        "project": f"Set it in {OPTIONS}, or GOOGLE_CLOUD_PROJECT in the environment.",
    }
    return advice.get(name, f"Set it in {OPTIONS}.")


def _deadline(backend: CloudTasksBackend) -> Iterator[CheckMessage]:
    deadline = backend.given.deadline
    shortest, longest = backend.shortest_deadline, backend.longest_deadline
    if deadline is not None and not shortest <= deadline <= longest:
        yield Error(
            f"The option 'deadline' is {deadline!s}; Cloud Tasks takes {shortest!s} to {longest!s}.",
            hint=f"Correct it in {OPTIONS}, or leave it out.",
            id="massmigration_djangae.E003",
        )


def _unknown(backend: CloudTasksBackend) -> Iterable[CheckMessage]:
    known = NAMES | backend.more_options
    for name in sorted(backend.options.keys() - known):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"It knows: {', '.join(sorted(known))}."
        yield Warning(f"{_name(backend)} has no option {name!r}.", hint=hint, id="massmigration_djangae.W001")


def _is_served(path: str) -> bool:
    try:
        return resolve(path).view_name.endswith(VIEW)
    except Resolver404:
        return False


def _name(backend: CloudTasksBackend) -> str:
    return type(backend).__qualname__
