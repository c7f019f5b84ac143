"""The history of one migration: every event, across attempts."""

from __future__ import annotations

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from massmigration.models import Event
from massmigration.views import base, formatting
from massmigration.views.base import find, page
from massmigration.views.detail import header

PAGE_SIZE = 50

SOURCES = {"page": _("page"), "command": _("command"), "code": _("code"), "": _("worker")}


@page()
def history(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """Show the events, newest first, also of a migration that was forgotten."""
    target = find(key, db_alias, is_history=True)
    events = Event.objects.using(db_alias).filter(key=key).order_by("-pk")
    shown = Paginator(events, PAGE_SIZE).get_page(request.GET.get("page"))
    rows = [
        {
            "event": event,
            "verb": formatting.EVENT_NAMES.get(event.verb, event.verb),
            "source": SOURCES.get(event.source, event.source),
            "before": formatting.badge_of(event.from_status) if event.from_status else None,
            "after": formatting.badge_of(event.to_status) if event.to_status else None,
            "attempt": str(event.attempt_id)[:8] if event.attempt_id else "",
        }
        for event in shown
    ]
    context = {"title": gettext("History: %(key)s") % {"key": key}, "tab": "history", "page": shown, "rows": rows}
    return base.render(request, "history", {**context, **header(request, target)})
