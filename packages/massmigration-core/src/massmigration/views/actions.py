"""Operator actions from a page: confirmation, action, message, and the admin's log."""

from __future__ import annotations

from django.apps import apps
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext, ngettext

from massmigration import api
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import MassMigrationError
from massmigration.models import MigrationRecord
from massmigration.verbs import VERBS
from massmigration.views import base, buttons, formatting
from massmigration.views.base import Target, find, page, require
from massmigration.views.buttons import is_confirmed
from massmigration.views.detail import header

RECOVER = "recover"
PROCEED = "proceed"


def report(request: HttpRequest, key: str, db_alias: str, *, success_message: str, logged: str) -> None:
    """Show that an action succeeded, or that its job could not be sent, and log it in the admin."""
    unsent = api.not_sent(key, db_alias)
    if unsent:
        messages.warning(request, unsent)
    else:
        messages.success(request, success_message)
    log_action(request, key, db_alias, logged)


def log_action(request: HttpRequest, key: str, db_alias: str, message: str) -> None:
    """Add an entry to the admin's history of the record and of the user, if the admin is installed."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry  # importable only if the app is installed
    from django.contrib.contenttypes.models import ContentType

    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type=ContentType.objects.get_for_model(MigrationRecord),
        object_id=key,
        object_repr=f"{key} ({db_alias})"[:200],
        action_flag=CHANGE,
        change_message=f"{message} [{db_alias}]",
    )


@page(posts=True)
def perform(request: HttpRequest, verb: str, key: str, db_alias: str) -> HttpResponse:
    """Ask for confirmation (GET), or perform the action (POST). Show a refusal on the migration's page."""
    if verb == RECOVER:
        return _recover(request, key, db_alias)
    if verb not in VERBS:
        return _perform_own(request, verb, find(key, db_alias))
    require(request, VERBS[verb].permission)
    target = find(key, db_alias)
    if request.method != "POST":
        return _ask(request, verb, target)
    if target.needs_confirmation(VERBS[verb]) and not is_confirmed(request, target):
        return _ask(request, verb, target)
    success_message = VERBS[verb].success_message % {"key": key, "db": db_alias}
    try:
        # The stage is that of the question which the user has confirmed.
        VERBS[verb].call(key, db_alias, **({"stage": target.record.stage} if verb == PROCEED and target.record else {}))
    except MassMigrationError as error:
        messages.error(request, str(error))
    else:
        report(request, key, db_alias, success_message=success_message, logged=f"{verb.capitalize()}.")
    return to_detail(target)


@page("forget", posts=True)
def forget(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """Perform the action `forget`, under the URL name of django-mass-migration."""
    response: HttpResponse = perform(request, verb="forget", key=key, db_alias=db_alias)
    return response


def to_detail(target: Target) -> HttpResponse:
    """Redirect to the migration's page, or to the list if the migration has neither a file nor a record."""
    if not (target.migration or target.file_error or target.has_record_now()):
        return HttpResponseRedirect(reverse("massmigration_manage"))
    return HttpResponseRedirect(reverse("massmigration_detail", args=[target.key, target.db_alias]))


def _ask(request: HttpRequest, verb: str, target: Target) -> HttpResponse:
    button = buttons.for_verb(verb, target)
    context = {"title": f"{button.verb.label}: {target.key}", "button": button, **header(request, target)}
    return base.render(request, "confirm", context)


def _perform_own(request: HttpRequest, name: str, target: Target) -> HttpResponse:
    """Perform an action that the migration defines itself."""
    if target.migration is None or type(target.migration).get_actions is BaseMigration.get_actions:
        raise Http404(gettext("There is no such action."))
    found = {action.name: action for action in api.migration_actions(target.key, target.db_alias)}
    if name not in found:
        messages.error(request, gettext("This action is not possible now."))
        return to_detail(target)
    action = found[name]
    require(request, action.permission)
    button = buttons.for_action(action, target)
    if request.method != "POST" or (button.needs_confirmation and not is_confirmed(request, target)):
        context = {"title": f"{action.label}: {target.key}", "button": button, **header(request, target)}
        return base.render(request, "confirm", context)
    try:
        message = api.perform_action(name, target.key, target.db_alias)
    except MassMigrationError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, message or gettext("%(label)s: done.") % {"label": action.label})
    log_action(request, target.key, target.db_alias, f"{action.label}.")  # a failed action may have had effects
    return to_detail(target)


def _recover(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    require(request, "control")
    target = find(key, db_alias)
    if request.method == "POST":
        count = api.recover(db_alias)
        unsent = api.not_sent(key, db_alias)
        if unsent:
            messages.error(request, unsent)
        if count:
            text = ngettext("Recovery sent %(n)s stuck job again.", "Recovery sent %(n)s stuck jobs again.", count)
            messages.success(request, text % {"n": formatting.number(count)})
            log_action(request, key, db_alias, "Recover.")
        elif not unsent:
            messages.info(request, gettext("Nothing is stuck yet. A shard is stuck when its lease has expired."))
    return to_detail(target)
