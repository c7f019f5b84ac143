"""The page on which operators change the pace of a migration, and the switch that pauses everything."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from django.contrib import messages
from django.db import connections
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext, gettext_lazy

from massmigration import api
from massmigration.conf import LEVELS
from massmigration.exceptions import MassMigrationError
from massmigration.pace import SETTABLE, Pace, shown
from massmigration.recorder import tables
from massmigration.states import Status
from massmigration.views import base
from massmigration.views.actions import log_action, to_detail
from massmigration.views.base import Target, find, may, page, require
from massmigration.views.detail import header

LABELS = {
    "batch_duration": gettext_lazy("Target duration of a batch, in seconds"),
    "max_batch_size": gettext_lazy("Maximum rows in a batch"),
    "max_rows_per_second": gettext_lazy("Maximum rows per second, for all workers together"),
    "max_workers": gettext_lazy("Maximum workers at the same time"),
    "window": gettext_lazy("Only between these times, such as 22:00-06:00"),
    "throttles": gettext_lazy("Throttles"),
    "level": gettext_lazy("How much it gives way to the site"),
}
CHOICES = {"throttles": ("on", "off"), "level": ("", *LEVELS)}
"""The values of the fields that are not typed; an empty one for the default."""

PAUSE_ALL, RESUME_ALL = "pause-all", "resume-all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """A part of the pace, as the page asks for it."""

    name: str
    label: Any
    value: str
    choices: tuple[str, ...]


@page(posts=True)
def pace(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """Show the pace (GET). Show its changes and ask for confirmation, then change it (POST)."""
    target = find(key, db_alias)
    if request.method != "POST":
        return _show(request, target, _present(target))
    require(request, "control")
    old = _present(target)
    try:
        new = old.with_changes({name: _given(request, name) for name in SETTABLE})
    except MassMigrationError as error:
        messages.error(request, str(error))
        return _show(request, target, old)
    if "confirmed" not in request.POST:
        return _show(request, target, new, old=old)
    if request.POST.get("seen", "") != _version(old):
        text = gettext("Nothing was changed: the pace has changed since you opened the page. Check it again.")
        messages.error(request, text)
        return _show(request, target, old)
    try:
        api.set_pace(key, db_alias, **{name: getattr(new, name) for name in SETTABLE})
    except MassMigrationError as error:
        messages.error(request, str(error))
    else:
        text = gettext("The pace of %(key)s was changed on %(db)s. It holds from each worker's next batch on.")
        messages.success(request, text % {"key": key, "db": db_alias})
        log_action(request, key, db_alias, "Pace.")
    return to_detail(target)


def _present(target: Target) -> Pace:
    return target.snapshot.progress.pace if target.snapshot else Pace()


def _given(request: HttpRequest, name: str) -> str | None:
    return request.POST.get(name, "").strip() or None


def _version(pace: Pace) -> str:
    return json.dumps(pace.as_json(), sort_keys=True)


def _show(request: HttpRequest, target: Target, pace: Pace, *, old: Pace | None = None) -> HttpResponse:
    """Show the form. `old`: the pace before the changes, which the user has to confirm."""
    fields = [
        Field(name=name, label=LABELS[name], value=_text(name, pace), choices=CHOICES.get(name, ()))
        for name in SETTABLE
    ]
    changes = [
        {"label": LABELS[name], "old": shown(name, getattr(old, name)), "new": shown(name, getattr(pace, name))}
        for name in SETTABLE
        if old is not None and getattr(old, name) != getattr(pace, name)
    ]
    is_changeable = target.record is not None and target.record.is_managed and target.status is not Status.APPLIED
    context = {
        "title": gettext("Pace: %(key)s") % {"key": target.key},
        "tab": "pace",
        "fields": fields,
        "changes": changes,
        "is_unchanged": old is not None and not changes,
        "seen": _version(old or pace),
        "may_change": may(request, "control") and is_changeable,
        "pace": pace,
        **header(request, target),
    }
    return base.render(request, "pace", context)


def _text(name: str, pace: Pace) -> str:
    """Return a value as the form shows it; empty for the default."""
    value = getattr(pace, name)
    if value is None:
        return ""
    if name == "batch_duration":
        return f"{value.total_seconds():g}"
    return shown(name, value).replace(" ", "")


@page("control", posts=True)
def everything(request: HttpRequest, verb: str) -> HttpResponse:
    """Ask for confirmation (GET), or pause or resume everything on all databases (POST)."""
    if verb not in (PAUSE_ALL, RESUME_ALL):
        raise Http404(gettext("There is no such action."))
    if request.method != "POST":
        context = {"title": gettext("Mass migrations"), "verb": verb}
        return base.render(request, "everything", context)
    for db_alias in filter(tables.exist, connections):
        try:
            if verb == PAUSE_ALL:
                api.pause_all(db_alias, reason=request.POST.get("reason", ""))
            else:
                api.resume_all(db_alias)
        except MassMigrationError as error:
            messages.error(request, str(error))
    if verb == PAUSE_ALL:
        messages.success(request, gettext("Everything is paused. Batches that have started will still finish."))
    else:
        messages.success(request, gettext("Everything continues."))
    log_action(request, "*", "all databases", f"{verb.capitalize()}.")
    return HttpResponseRedirect(reverse("massmigration_manage"))
