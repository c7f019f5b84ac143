"""Middleware that requires a login for every page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect


class LoginEverywhere:
    """A short version of Django's LoginRequiredMiddleware, which Django 4.2 lacks."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, *args: Any) -> HttpResponse | None:
        return None if not getattr(view, "login_required", True) else HttpResponseRedirect("/login/")
