"""The admin's actions: the operator actions of `verbs`, and the actions of backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from massmigration import actors, api
from massmigration.admin.base import alias_of
from massmigration.backends.base import AdminAction
from massmigration.definitions.stages import question_of
from massmigration.exceptions import MassMigrationError
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration.verbs import VERBS, Verb
from massmigration.views.actions import PROCEED, log_action, report

CONFIRMED = "confirmed"
STAGE = "stage"
TEMPLATE = "admin/massmigration/confirm_action.html"

Action = Callable[[Any, HttpRequest, "QuerySet[MigrationRecord]"], "HttpResponse | None"]


def for_verbs() -> list[Action]:
    """Return the operator actions for migrations that have a record, as Django's admin expects them."""
    return [_for_verb(verb) for verb in VERBS.values() if verb.name != "launch"]


def name_of(action: AdminAction) -> str:
    """Return the name of a backend's action in the admin, which differs from every operator action."""
    return f"backend_{action.name}"


def for_backend(action: AdminAction) -> Action:
    """Return the admin's action for an action of a backend."""

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
        for key in keys:  # a failed action may have had effects
            log_action(request, key, alias_of(request), f"{action.label}.")
        return None

    perform.__name__ = name_of(action)
    perform.short_description = action.label  # type: ignore[attr-defined]  # Django reads these attributes
    return perform


def perform_verb(request: HttpRequest, verb: Verb, keys: Sequence[str], db_alias: str) -> None:
    """Perform an operator action on each of the migrations, and report each result."""
    stages = dict(_parsed(request.POST.getlist(STAGE)))
    for key in keys:
        arguments = {"stage": stages[key]} if verb.name == PROCEED and key in stages else {}
        success_message = verb.success_message % {"key": key, "db": db_alias}
        try:
            with actors.acting(_actor(request), source="page"):
                verb.call(key, db_alias, **arguments)
        except MassMigrationError as error:
            messages.error(request, str(error))
        else:
            report(request, key, db_alias, success_message=success_message, logged=f"{verb.name.capitalize()}.")


def _for_verb(verb: Verb) -> Action:
    def perform(model_admin: Any, request: HttpRequest, queryset: QuerySet[MigrationRecord]) -> HttpResponse | None:
        keys = list(queryset.values_list("pk", flat=True))
        if verb.name == PROCEED and CONFIRMED not in request.POST:
            return _ask_questions(model_admin, request, list(queryset), verb)
        if verb.is_irreversible and CONFIRMED not in request.POST:
            return _ask_of_selected(model_admin, request, keys, verb.name, verb.label, verb.question)
        perform_verb(request, verb, keys, alias_of(request))
        return None

    perform.__name__ = verb.name
    perform.allowed_permissions = [verb.permission]  # type: ignore[attr-defined]  # Django reads these attributes
    perform.short_description = format_lazy(_("{verb}: selected mass migrations"), verb=verb.label)  # type: ignore[attr-defined]
    return perform


def _ask_of_selected(
    model_admin: Any, request: HttpRequest, keys: Sequence[str], action: str, label: Any, description: Any
) -> HttpResponse:
    fields = [(ACTION_CHECKBOX_NAME, key) for key in keys] + [("action", action)]
    return ask(model_admin, request, keys, label, description, fields)


def _ask_questions(
    model_admin: Any, request: HttpRequest, records: Sequence[MigrationRecord], verb: Verb
) -> HttpResponse:
    """Ask the questions of the migrations that wait. The form sends back the stages that ask them."""
    waiting = {record.key: record.stage for record in records if record.status == Status.WAITING}
    fields = [(ACTION_CHECKBOX_NAME, record.key) for record in records] + [("action", verb.name)]
    fields += [(STAGE, f"{stage} {key}") for key, stage in waiting.items()]
    questions = {key: question_of(store.by_key.get(key), stage) for key, stage in waiting.items()}
    keys = [": ".join(filter(None, [record.key, questions.get(record.key)])) for record in records]
    return ask(model_admin, request, keys, verb.label, verb.question, fields)


def _parsed(given: Sequence[str]) -> Iterator[tuple[str, int]]:
    for text in given:
        stage, _, key = text.partition(" ")
        if stage.isdecimal():
            yield key, int(stage)


def ask(
    model_admin: Any,
    request: HttpRequest,
    keys: Sequence[str],
    label: Any,
    description: Any,
    fields: Sequence[tuple[str, str]],
) -> HttpResponse:
    """Return a page that asks for confirmation. Its form sends `fields`, and `CONFIRMED`."""
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
