"""The page of one migration on one database."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.http import HttpRequest, HttpResponse

from massmigration import api
from massmigration.states import ACTIVE
from massmigration.verbs import VERBS
from massmigration.views import buttons, frame, live, words
from massmigration.views.access import may, page
from massmigration.views.targets import Target, find, statuses


@page()
def detail(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """How it goes, and the buttons."""
    target = find(key, db_alias)
    health = api.backend_health(key) if target.migration and target.status in ACTIVE else None
    offered = buttons.of_target(request, target)
    may_run = may(request, "run") and target.suits(VERBS["launch"])
    context = {
        "title": key,
        "tab": "detail",
        "buttons": offered,
        "has_verbs": target.record is not None or any(button.is_shown for button in offered) or may_run,
        "may_heal": may(request, "control"),
        "may_run": may_run,
        "health": health,
        "dependencies": dependencies(target),
        **header(request, target),
        **live.context_of(target, {}),
    }
    return frame.render(request, "detail", context)


def header(request: HttpRequest, target: Target) -> dict[str, Any]:
    """What the pages of one migration have in common."""
    allowed = target.migration.get_allowed_db_aliases() if target.migration else [target.db_alias]
    return {
        "target": target,
        "badge": words.badge(target.record, is_stalled=target.is_stalled),
        "may_try": may(request, "run"),
        "description": target.migration.description if target.migration else "",
        "db_aliases": [alias for alias in connections if alias in {*allowed, target.db_alias}],
    }


def dependencies(target: Target) -> list[dict[str, Any]]:
    """The migrations that it depends on, with their statuses."""
    keys = target.migration.needed_keys if target.migration else []
    found = statuses(keys, target.db_alias) if keys else {}
    return [{"key": key, "badge": words.badge_of(found.get(key))} for key in keys]
