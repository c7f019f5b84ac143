"""Draws a page inside the admin where that is installed, and in a frame of its own elsewhere."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse


def has_admin() -> bool:
    """Whether the admin is installed, and has an address."""
    if not apps.is_installed("django.contrib.admin"):
        return False
    try:
        reverse("admin:index")
    except NoReverseMatch:
        return False
    return True


def render(request: HttpRequest, name: str, context: dict[str, Any], *, status: int | None = None) -> HttpResponse:
    """The page `name` of `templates/massmigration`. What is not for staff is not shown as the admin's."""
    frame = {"base_template": "massmigration/standalone.html"}
    if has_admin():
        from django.contrib import admin  # its models need the app

        if admin.site.has_permission(request):
            frame = {**admin.site.each_context(request), "base_template": "massmigration/in_admin.html"}
    return TemplateResponse(request, f"massmigration/{name}.html", {**frame, **context}, status=status)
