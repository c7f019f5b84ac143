"""Lets people in: who is logged in and has the permissions, for addresses of something that exists."""

from __future__ import annotations

import functools
from collections.abc import Callable

from django.conf import global_settings, settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import resolve_url
from django.utils.translation import gettext
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods

from massmigration import actors, tables
from massmigration.exceptions import RecordsUnreadable
from massmigration.views import frame

View = Callable[..., HttpResponse]


def may(request: HttpRequest, permission: str) -> bool:
    """Whether who asks has this permission (`view`, `run`, `control`, `forget`), and may look at all."""
    names = [f"massmigration.{each}_migrationrecord" for each in ("view", permission)]
    return bool(getattr(request, "user", None)) and request.user.has_perms(names)


def require(request: HttpRequest, permission: str) -> None:
    """Answer 403 unless who asks has this permission."""
    if not may(request, permission):
        raise PermissionDenied


def page(permission: str = "view", *, posts: bool = False, is_json: bool = False) -> Callable[[View], View]:
    """Make a function a view for those with the permission, who act in it by name; `posts`: to change something."""
    methods = require_http_methods(["GET", "HEAD", *(["POST"] if posts else [])])

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(request: HttpRequest, **found: str) -> HttpResponse:
            user = getattr(request, "user", None)
            if user is None or not user.is_authenticated:
                if is_json:
                    return JsonResponse({"error": gettext("You are logged out.")}, status=403)
                return redirect_to_login(request.get_full_path(), _login_address())
            require(request, permission)
            if found.get("db_alias") not in (None, *connections):
                raise Http404(gettext("There is no such database."))
            with actors.acting(user.get_username(), source="page"):
                return _call(view, request, found, is_json=is_json)

        return never_cache(methods(csrf_protect(outside_transactions(guarded))))

    return decorate


def outside_transactions(view: View) -> View:
    """Free a view from `ATOMIC_REQUESTS`: the engine's transactions are its own."""
    for db_alias in connections:
        view = transaction.non_atomic_requests(using=db_alias)(view)
    return view


def _call(view: View, request: HttpRequest, found: dict[str, str], *, is_json: bool) -> HttpResponse:
    try:
        return view(request, **found)
    except DatabaseError:
        try:
            tables.check(found["db_alias"])
        except RecordsUnreadable as error:
            if is_json:
                return JsonResponse({"error": str(error)}, status=503)
            context = {"title": gettext("Mass migrations"), "problem": str(error)}
            return frame.render(request, "problem", context, status=503)
        raise


def _login_address() -> str:
    """`LOGIN_URL`; the admin's own page where the project has not said any and has the admin."""
    if settings.LOGIN_URL == global_settings.LOGIN_URL and frame.has_admin():
        return resolve_url("admin:login")
    return resolve_url(settings.LOGIN_URL)
