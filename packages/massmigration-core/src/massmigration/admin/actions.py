"""The admin's actions: the verbs of `api`, and what backends offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from massmigration import actors, api
from massmigration.admin.databases import alias_of
from massmigration.backends.base import AdminAction
from massmigration.exceptions import MassMigrationError
from massmigration.models import MigrationRecord
from massmigration.verbs import VERBS, Verb
from massmigration.views.buttons import DONE, LABELS, QUESTIONS
from massmigration.views.noting import note, report

CONFIRMED = "confirmed"
TEMPLATE = "admin/massmigration/confirm_action.html"

Action = Callable[[Any, HttpRequest, "QuerySet[MigrationRecord]"], "HttpResponse | None"]


def of_verbs() -> list[Action]:
    """Those for migrations that have a record, as Django wants them: functions with attributes."""
    return [_of_verb(verb) for verb in VERBS.values() if verb.name != "launch"]


def name_of(action: AdminAction) -> str:
    """What the admin calls it; no verb has such a name."""
    return f"backend_{action.name}"


def of_backend(action: AdminAction) -> Action:
    """The one for something that a backend offers."""

    def perform(model_admin: Any, request: HttpRequest, queryset: QuerySet[MigrationRecord]) -> HttpResponse | None:
        keys = list(queryset.values_list("pk", flat=True))
        if action.asks and CONFIRMED not in request.POST:
            return _ask_of_selected(model_admin, request, keys, name_of(action), action.label, action.description)
        try:
            with actors.acting(_actor(request), source="page"):
                for text in api.perform_backend_action(action.name, keys, alias_of(request)):
                    messages.success(request, text)
        except MassMigrationError as error:
            messages.error(request, str(error))
        for key in keys:  # what failed may have been done in part
            note(request, key, alias_of(request), f"{action.label}.")
        return None

    perform.__name__ = name_of(action)
    perform.short_description = action.label  # type: ignore[attr-defined]  # Django's way to say it
    return perform


def give(request: HttpRequest, verb: Verb, keys: Sequence[str], db_alias: str) -> None:
    """Give a verb to each of the migrations, and report what happened to it."""
    for key in keys:
        said = DONE[verb.name] % {"key": key, "db": db_alias}
        try:
            with actors.acting(_actor(request), source="page"):
                verb.call(key, db_alias)
        except MassMigrationError as error:
            messages.error(request, str(error))
        else:
            report(request, key, db_alias, said=said, entry=f"{verb.name.capitalize()}.")


def _of_verb(verb: Verb) -> Action:
    def perform(model_admin: Any, request: HttpRequest, queryset: QuerySet[MigrationRecord]) -> HttpResponse | None:
        keys = list(queryset.values_list("pk", flat=True))
        if verb.is_grave and CONFIRMED not in request.POST:
            return _ask_of_selected(model_admin, request, keys, verb.name, LABELS[verb.name], QUESTIONS[verb.name])
        give(request, verb, keys, alias_of(request))
        return None

    perform.__name__ = verb.name
    perform.allowed_permissions = [verb.permission]  # type: ignore[attr-defined]  # Django's way to say it
    perform.short_description = format_lazy(_("{verb}: selected mass migrations"), verb=LABELS[verb.name])  # type: ignore[attr-defined]
    return perform


def _ask_of_selected(
    model_admin: Any, request: HttpRequest, keys: Sequence[str], action: str, label: Any, description: Any
) -> HttpResponse:
    fields = [(ACTION_CHECKBOX_NAME, key) for key in keys] + [("action", action)]
    return ask(model_admin, request, keys, label, description, fields)


def ask(
    model_admin: Any,
    request: HttpRequest,
    keys: Sequence[str],
    label: Any,
    description: Any,
    fields: Sequence[tuple[str, str]],
) -> HttpResponse:
    """The page that asks; what it sends then are `fields`, and `CONFIRMED`."""
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "title": label,
        "description": description,
        "keys": keys,
        "db_alias": alias_of(request),
        "list_url": request.get_full_path(),
        "fields": [*fields, (CONFIRMED, "yes")],
    }
    return TemplateResponse(request, TEMPLATE, context)


def _actor(request: HttpRequest) -> str:
    return request.user.get_username()
