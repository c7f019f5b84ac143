"""Gives verbs: asks on a page of its own where nothing was confirmed, does it, and says so."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext, ngettext

from massmigration import api
from massmigration.exceptions import MassMigrationError
from massmigration.verbs import VERBS
from massmigration.views import buttons, frame, noting, words
from massmigration.views.access import page, require
from massmigration.views.confirming import is_confirmed
from massmigration.views.detail import header
from massmigration.views.targets import Target, find

HEAL = "heal"


@page(posts=True)
def give(request: HttpRequest, verb: str, key: str, db_alias: str) -> HttpResponse:
    """GET asks, POST does it. What a verb refuses is said on the migration's page."""
    if verb == HEAL:
        return _heal(request, key, db_alias)
    if verb not in VERBS:
        raise Http404(gettext("There is no such verb."))
    require(request, VERBS[verb].permission)
    target = find(key, db_alias)
    if request.method != "POST":
        return _ask(request, verb, target)
    if target.asks(VERBS[verb]) and not is_confirmed(request, target):
        return _ask(request, verb, target)
    text = buttons.DONE[verb] % {"key": key, "db": db_alias}
    try:
        VERBS[verb].call(key, db_alias)
    except MassMigrationError as error:
        messages.error(request, str(error))
    else:
        noting.report(request, key, db_alias, said=text, entry=f"{verb.capitalize()}.")
    return to_detail(target)


@page("forget", posts=True)
def forget(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """The address that django-mass-migration had for it."""
    answer: HttpResponse = give(request, verb="forget", key=key, db_alias=db_alias)
    return answer


def to_detail(target: Target) -> HttpResponse:
    """Go to the migration's page; to the list when there is nothing left of it."""
    is_left = target.migration or target.file_error or target.migration_has_record()
    if not is_left:
        return HttpResponseRedirect(reverse("massmigration_manage"))
    return HttpResponseRedirect(reverse("massmigration_detail", args=[target.key, target.db_alias]))


def _ask(request: HttpRequest, verb: str, target: Target) -> HttpResponse:
    button = buttons.of_verb(verb, target)
    context = {"title": f"{button.label}: {target.key}", "button": button, **header(request, target)}
    return frame.render(request, "confirm", context)


def _heal(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    require(request, "control")
    target = find(key, db_alias)
    if request.method == "POST":
        count = api.heal(db_alias)
        if count:
            text = ngettext("Sent again what was stuck: %(n)s job.", "Sent again what was stuck: %(n)s jobs.", count)
            messages.success(request, text % {"n": words.number(count)})
            noting.note(request, key, db_alias, "Heal.")
        else:
            messages.info(request, gettext("Nothing is due to be sent again yet. It is when a lease has run out."))
    return to_detail(target)
