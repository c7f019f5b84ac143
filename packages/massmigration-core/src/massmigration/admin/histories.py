"""The failed objects and the events in the admin, one migration's or all."""

from __future__ import annotations

from django.contrib import admin
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from massmigration.admin.databases import DatabaseFilter, ReadOnlyAdmin
from massmigration.models import Event, FailedObject

MAX_MESSAGE = 200


@admin.register(FailedObject)
class FailedObjectAdmin(ReadOnlyAdmin):
    """What operations raised, with tracebacks."""

    list_display = ("record_id", "object_pk", "exception_class", "short_message", "failed_at", "resolved_at")
    list_filter = (DatabaseFilter, ("resolved_at", admin.EmptyFieldListFilter))
    search_fields = ("record__key", "exception_class", "message")
    fields = ("record_id", "stage", "object_pk", "exception_class", "message", "traceback", "failed_at", "resolved_at")

    @admin.display(description=_("message"))
    def short_message(self, failed: FailedObject) -> str:
        return Truncator(failed.message).chars(MAX_MESSAGE)


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """Who did what, and when."""

    list_display = ("at", "key", "verb", "actor", "from_status", "to_status", "short_detail")
    list_filter = (DatabaseFilter, "verb")
    search_fields = ("key", "actor")
    ordering = ("-pk",)

    @admin.display(description=_("detail"))
    def short_detail(self, event: Event) -> str:
        return Truncator(event.detail).chars(MAX_MESSAGE)
