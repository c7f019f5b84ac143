"""Reports what was done: to who asked, and in the admin's log, where the admin is installed."""

from __future__ import annotations

from django.apps import apps
from django.contrib import messages
from django.http import HttpRequest

from massmigration import api
from massmigration.models import MigrationRecord


def report(request: HttpRequest, key: str, db_alias: str, *, said: str, entry: str) -> None:
    """Say that a verb was given, or that the queue did not take its job, and note it."""
    unsent = api.not_sent(key, db_alias)
    if unsent:
        messages.warning(request, unsent)
    else:
        messages.success(request, said)
    note(request, key, db_alias, entry)


def note(request: HttpRequest, key: str, db_alias: str, message: str) -> None:
    """What has been done to a migration, for the admin's history of its record and of its user."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry  # their tables need the app
    from django.contrib.contenttypes.models import ContentType

    LogEntry.objects.create(
        user_id=request.user.pk or 0,
        content_type=ContentType.objects.get_for_model(MigrationRecord),
        object_id=key,
        object_repr=f"{key} ({db_alias})"[:200],
        action_flag=CHANGE,
        change_message=f"{message} [{db_alias}]",
    )
