"""Authentication of the requests that deliver jobs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import google.auth.transport
import google.auth.transport.requests
from django.conf import settings
from django.http import HttpRequest
from google.auth import exceptions as auth_exceptions
from google.oauth2 import id_token

from massmigration_djangae.exceptions import NotAuthentic
from massmigration_djangae.options import Options

logger = logging.getLogger(__name__)

Verifier = Callable[[HttpRequest, Options], None]
"""Raises `NotAuthentic` if the request does not come from the queue. After another exception, it is delivered again."""

CLOCK_SKEW = 10
"""Seconds by which this machine's clock and Google's may differ."""

CERTIFICATES_AGE = 3600.0
"""Seconds that Google's certificates are cached. Google publishes new ones days before it uses them."""


class CachedCertificates(google.auth.transport.Request):
    """A transport that fetches Google's certificates at most once an hour."""

    def __init__(self, fetch: Any = None) -> None:
        self._fetch = fetch
        self._kept: dict[str, tuple[float, Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, url: str, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            fetched_at, response = self._kept.get(url, (0.0, None))
            if response is None or time.monotonic() - fetched_at > CERTIFICATES_AGE:
                self._fetch = self._fetch or google.auth.transport.requests.Request()
                response = self._fetch(url, *args, **kwargs)
                if response.status == 200:
                    self._kept[url] = (time.monotonic(), response)
            return response


certificates = CachedCertificates()


def signed(request: HttpRequest, options: Options, certificates: Any = certificates) -> None:
    """Check that Google signed the request for this audience and service account. The verifier of HTTP targets."""
    if not options.audience or not options.service_account:
        raise NotAuthentic("The options audience (or url) and service_account are not set: all requests are refused.")
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotAuthentic("The request has no token.")
    verify: Any = id_token.verify_oauth2_token
    try:
        claims = verify(token, certificates, options.audience, clock_skew_in_seconds=CLOCK_SKEW)
    except auth_exceptions.TransportError:
        raise  # Google's certificates could not be fetched, so the token could not be checked
    except Exception as error:  # a malformed token may raise anything
        raise NotAuthentic(f"The token is not valid: {type(error).__name__}: {error}") from error
    if claims.get("email_verified") is not True:
        raise NotAuthentic("The token's e-mail address is not verified.")
    if claims.get("email") != options.service_account:
        raise NotAuthentic(f"The token belongs to {claims.get('email')!r}; {options.service_account!r} is required.")


def by_app_engine(request: HttpRequest, options: Options) -> None:
    """Check for a header that App Engine removes from other requests. The verifier of App Engine targets."""
    if not is_on_app_engine():
        raise NotAuthentic("App Engine's headers can only be trusted on App Engine, and this is not App Engine.")
    if not request.headers.get("X-AppEngine-TaskName"):
        raise NotAuthentic("The request does not have the header of App Engine's queues.")


def development(request: HttpRequest, options: Options) -> None:
    """Accept every request while `DEBUG` is true. For emulators, which do not sign."""
    if not settings.DEBUG:
        raise NotAuthentic("The development verifier refuses every request when DEBUG is false.")


DEVELOPMENT = f"{development.__module__}.{development.__qualname__}"


def is_on_app_engine() -> bool:
    """Return whether this process runs in App Engine's standard environment, where no forged header arrives."""
    return os.environ.get("GAE_ENV") == "standard"
