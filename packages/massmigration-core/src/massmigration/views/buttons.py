"""Operator actions as buttons, and the typed confirmation of irreversible ones."""

from __future__ import annotations

import dataclasses
from typing import Any

from django.contrib import messages
from django.http import HttpRequest
from django.utils.translation import gettext

from massmigration import api
from massmigration.definitions.details import MigrationAction
from massmigration.verbs import VERBS, Verb
from massmigration.views.base import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Button:
    """An operator action for one migration, as a page offers it."""

    verb: Verb
    is_shown: bool
    needs_confirmation: bool
    """Whether the user must type the name of the migration."""

    warning: str = ""
    """The migration's own `confirmation` text."""


def for_target(request: HttpRequest, target: Target) -> list[Button]:
    """Return a button for each action that the user may perform; those that are not available now are hidden."""
    return [_button(verb, target) for verb in target.verbs(request)]


def for_verb(name: str, target: Target) -> Button:
    """Return the button of one action."""
    return _button(VERBS[name], target)


def for_action(action: MigrationAction, target: Target) -> Button:
    """Return the button of an action that the migration defines itself, and offers now."""

    def call(key: str, db_alias: str, **options: Any) -> None:
        api.perform_action(action.name, key, db_alias, **options)

    verb = Verb(
        name=action.name,
        call=call,
        permission=action.permission,
        sources=frozenset({target.status}),
        is_irreversible=action.is_irreversible,
        participle=action.name,
        description=action.description,
        label=action.label,
        question=action.description,
        success_message="",
    )
    return Button(verb=verb, is_shown=True, needs_confirmation=action.is_irreversible)


def is_confirmed(request: HttpRequest, target: Target) -> bool:
    """Return whether the user typed the name and the migration has not changed since; if not, add a message."""
    typed = request.POST.get("typed", "").strip()
    if typed not in (target.name, target.key):
        text = gettext("Nothing was changed: type %(name)s to confirm. You typed %(typed)r.")
        messages.error(request, text % {"name": target.name, "typed": typed})
        return False
    if request.POST.get("seen", "") != target.version:
        text = gettext("Nothing was changed: the migration has changed since you opened the page. Check it again.")
        messages.error(request, text)
        return False
    return True


def _button(verb: Verb, target: Target) -> Button:
    needs_confirmation = target.needs_confirmation(verb)
    return Button(
        verb=verb,
        is_shown=target.allows(verb),
        needs_confirmation=needs_confirmation,
        warning=target.confirmation if verb.continues_work and needs_confirmation else "",
    )
