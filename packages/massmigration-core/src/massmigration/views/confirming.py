"""Reads whether a form confirms what cannot be taken back."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest
from django.utils.translation import gettext

from massmigration.views.targets import Target


def is_confirmed(request: HttpRequest, target: Target) -> bool:
    """Whether the name was typed, and the migration is as it was when the form was drawn. Say so if not."""
    typed = request.POST.get("typed", "").strip()
    if typed not in (target.name, target.key):
        messages.error(
            request,
            gettext("Nothing was done: type %(name)s to confirm; what was typed is %(typed)r.")
            % {"name": target.name, "typed": typed},
        )
        return False
    if request.POST.get("seen", "") != target.seen:
        messages.error(
            request,
            gettext("Nothing was done: the migration has changed since the page was drawn. Look at it again."),
        )
        return False
    return True
