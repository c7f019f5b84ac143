"""A server of the test project in this process, with a policy that forbids inline scripts and styles."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings

POLICY = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'"


class StrictPolicy:
    """Middleware that adds the policy to every response."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Run the server; yield its address."""
    server = ThreadedWSGIServer(("127.0.0.1", 0), _QuietHandler)
    server.daemon_threads = True
    server.set_app(StaticFilesHandler(get_wsgi_application()))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def project(*, has_admin: bool) -> Iterator[None]:
    """Apply the policy to the test project, with or without the admin."""
    from django.conf import settings

    changes: dict[str, Any] = {"MIDDLEWARE": [f"{__name__}.StrictPolicy", *settings.MIDDLEWARE]}
    if not has_admin:
        changes["INSTALLED_APPS"] = [app for app in settings.INSTALLED_APPS if app != "django.contrib.admin"]
        changes["ROOT_URLCONF"] = "testsupport.urls_without_admin"
    with override_settings(**changes):
        yield
