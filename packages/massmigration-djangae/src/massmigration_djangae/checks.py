"""System checks of the backends' options."""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.urls import Resolver404, resolve

from massmigration_djangae import auth
from massmigration_djangae.exceptions import QueueRefused
from massmigration_djangae.options import Options

OPTIONS = "MASSMIGRATION_BACKEND_OPTIONS"
VIEW = "massmigration_djangae:run"
INCLUDE = 'Add to the URLconf: path("massmigration/", include("massmigration_djangae.urls"))'


def missing(name: str, options: Options, required: Iterable[str]) -> Iterator[CheckMessage]:
    """Yield E001 for each required option of the backend class `name` that is not set."""
    for option in _missing(options, required):
        yield Error(f"{name} needs the option {option!r}.", hint=_advice(option), id="massmigration_djangae.E001")


def refuse_incomplete(name: str, options: Options, required: Iterable[str]) -> None:
    """Raise `QueueRefused` if a required option is not set."""
    if found := _missing(options, required):
        raise QueueRefused(
            f"Cannot send: {name} needs {', '.join(map(repr, found))}. {_advice(found[0])} "
            "Then run: manage.py massmigrate --recover"
        )


def development_verifier(options: Options) -> Iterator[CheckMessage]:
    """Yield E002 if the verifier for development is set and `DEBUG` is false."""
    if options.verifier == auth.DEVELOPMENT and not settings.DEBUG:
        yield Error(
            "The option 'verifier' is the development verifier, which accepts every request, and DEBUG is False.",
            hint="Set it only in the settings of development. While DEBUG is False, it refuses every request.",
            id="massmigration_djangae.E002",
        )


def deadline(options: Options, shortest: dt.timedelta, longest: dt.timedelta) -> Iterator[CheckMessage]:
    """Yield E003 if the service does not accept the deadline."""
    if options.deadline is not None and not shortest <= options.deadline <= longest:
        yield Error(
            f"The option 'deadline' is {options.deadline!s}; Cloud Tasks accepts {shortest!s} to {longest!s}.",
            hint=f"Correct it in {OPTIONS}, or remove it.",
            id="massmigration_djangae.E003",
        )


def unknown(name: str, given: Collection[str], known: Collection[str]) -> Iterator[CheckMessage]:
    """Yield W001 for each given option that the backend class `name` does not have."""
    for option in sorted({*given} - {*known}):
        near = difflib.get_close_matches(option, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Its options: {', '.join(sorted(known))}."
        yield Warning(f"{name} has no option {option!r}.", hint=hint, id="massmigration_djangae.W001")


def http_target(options: Options) -> Iterator[CheckMessage]:
    """Yield E004, W003 and W004 if deliveries to the `url` will not arrive, or not safely."""
    url = urlsplit(options.url)
    if not options.url:
        return
    if url.scheme != "https" and not options.emulator:
        yield Error(
            f"The option 'url' is {options.url!r}. It must begin with https://, or tokens are sent unencrypted.",
            hint="Only an emulator may deliver to http://.",
            id="massmigration_djangae.E004",
        )
    if not _is_served(url.path):
        yield Warning(
            f"The option 'url' is {options.url!r}, but this project's URLconf has no massmigration_djangae page there.",
            hint=f"{INCLUDE}. If another service with the same code receives the requests, silence this check.",
            id="massmigration_djangae.W003",
        )
    if url.scheme == "http":
        yield from redirects(url.path)


def redirects(path: str) -> Iterator[CheckMessage]:
    """Yield W004 if requests over http are redirected, because the service does not follow redirects."""
    exempt = getattr(settings, "SECURE_REDIRECT_EXEMPT", [])
    if settings.SECURE_SSL_REDIRECT and not any(re.search(pattern, path.lstrip("/")) for pattern in exempt):
        yield Warning(
            f"SECURE_SSL_REDIRECT redirects deliveries to {path!r}, but Cloud Tasks does not follow redirects.",
            hint=f"Add to SECURE_REDIRECT_EXEMPT: r'^{path.lstrip('/')}$'",
            id="massmigration_djangae.W004",
        )


def _missing(options: Options, required: Iterable[str]) -> list[str]:
    return [option for option in required if not getattr(options, option)]


def _advice(option: str) -> str:
    advice = {
        "url": f"Set it in {OPTIONS} to the full address of massmigration_djangae's page. {INCLUDE}",
        "service_account": f"Set it in {OPTIONS} to the e-mail address of the account that requests are signed for.",
        "location": f"Set it in {OPTIONS} to the queue's location, for example 'europe-west1'.",
        "project": f"Set it in {OPTIONS}, or set GOOGLE_CLOUD_PROJECT in the environment.",
    }
    return advice.get(option, f"Set it in {OPTIONS}.")


def _is_served(path: str) -> bool:
    try:
        return resolve(path).view_name.endswith(VIEW)
    except Resolver404:
        return False
