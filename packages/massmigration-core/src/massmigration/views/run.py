"""The page from which a migration is started or tried."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from django.contrib import messages
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext

from massmigration import api, dryrun
from massmigration.exceptions import MassMigrationError
from massmigration.states import Status
from massmigration.verbs import VERBS
from massmigration.views import buttons, forecast, frame, noting, trying
from massmigration.views.access import page
from massmigration.views.confirming import is_confirmed
from massmigration.views.detail import dependencies, header
from massmigration.views.targets import Target, find

SIZE = 10
"""Objects of a dry run, unless more are asked for."""

MAX_SIZE = 100


@page("run", posts=True)
def run(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """GET shows, POST starts it, or tries it when `dry_run` is given."""
    target = find(key, db_alias)
    is_trial = "dry_run" in request.POST
    if request.method == "POST" and not is_trial:
        return _start(request, target)
    return _show(request, target, _try(request, target) if is_trial else None)


def _start(request: HttpRequest, target: Target) -> HttpResponse:
    if target.asks(VERBS["launch"]) and not is_confirmed(request, target):
        return _show(request, target, None)
    try:
        api.launch(target.key, target.db_alias)
    except MassMigrationError as error:
        messages.error(request, str(error))
    else:
        said = buttons.DONE["launch"] % {"key": target.key, "db": target.db_alias}
        noting.report(request, target.key, target.db_alias, said=said, entry="Launch.")
    return HttpResponseRedirect(reverse("massmigration_detail", args=[target.key, target.db_alias]))


def _try(request: HttpRequest, target: Target) -> dict[str, Any]:
    """What a dry run found, or why there is none."""
    given = request.POST.get("size", "").strip()
    try:
        size = int(given)
    except ValueError:
        size = 0
    if not 1 <= size <= MAX_SIZE:
        text = gettext("A dry run takes 1 to %(most)s objects; given was %(given)r.")
        return {"error": text % {"most": MAX_SIZE, "given": given}, "size": given[:20]}
    try:
        return {"size": size, **trying.told(dryrun.dry_run(target.key, target.db_alias, size))}
    except MassMigrationError as error:
        return {"error": str(error), "size": size}
    except DatabaseError as error:
        text = gettext("The database refused: %(error)s. Nothing was changed; try again.")
        return {"error": text % {"error": error}, "size": size}


def _show(request: HttpRequest, target: Target, trial: dict[str, Any] | None) -> HttpResponse:
    needed = dependencies(target)
    health = api.backend_health(target.key) if target.migration else None
    context = {
        "title": gettext("Run %(key)s") % {"key": target.key},
        "tab": "run",
        "health": health,
        "dependencies": needed,
        "missing": [each for each in needed if each["badge"].state not in (Status.APPLIED, "faked")],
        "refusal": _refusal(target),
        "button": buttons.of_verb("launch", target),
        "trial": trial,
        "size": trial["size"] if trial else SIZE,
        "max_size": MAX_SIZE,
        "source": _source(target),
        **forecast.of_target(target),
        **header(request, target),
    }
    return frame.render(request, "run", context)


def _refusal(target: Target) -> str:
    """Why it could not be started now, in the words in which starting would refuse it."""
    if target.migration is None:
        return target.file_error or gettext("Its file is gone.")
    try:
        target.migration.check_db_alias(target.db_alias)
        if target.record is None:
            target.migration.check_dependencies(target.db_alias)
    except MassMigrationError as error:
        return str(error)
    return ""


def _source(target: Target) -> dict[str, str] | None:
    try:
        path = Path(inspect.getfile(type(target.migration)))
        return {"path": "/".join(path.parts[-3:]), "text": path.read_text(encoding="utf-8", errors="replace")}
    except (OSError, TypeError):
        return None
