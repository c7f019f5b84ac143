"""The migration records, failed objects and events in the admin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from massmigration import api, overview
from massmigration.admin import actions
from massmigration.admin.base import PARAMETER, DatabaseFilter, ReadOnlyAdmin, alias_of, with_tables
from massmigration.loader import store
from massmigration.models import Event, FailedObject, MigrationRecord, ShardRecord
from massmigration.verbs import VERBS, Verb
from massmigration.views import formatting
from massmigration.views.base import confirmation_of, may, outside_transactions, refuse_unstorable

if TYPE_CHECKING:
    TabularInline = admin.TabularInline[ShardRecord, MigrationRecord]
else:
    TabularInline = admin.TabularInline  # generic only in its type stubs


LAUNCH_TEMPLATE = "admin/massmigration/launch.html"

MAX_MESSAGE = 200


@admin.register(FailedObject)
class FailedObjectAdmin(ReadOnlyAdmin):
    """The failed objects, with tracebacks."""

    inspected = ("message", "short_message", "traceback")
    list_display = ("record_id", "object_pk", "exception_class", "short_message", "failed_at", "resolved_at")
    list_filter = (DatabaseFilter, ("resolved_at", admin.EmptyFieldListFilter))
    search_fields = ("record__key", "exception_class", "message")
    fields = ("record_id", "stage", "object_pk", "exception_class", "message", "traceback", "failed_at", "resolved_at")

    @admin.display(description=_("message"))
    def short_message(self, failed: FailedObject) -> str:
        return Truncator(failed.message).chars(MAX_MESSAGE)


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    """The events of all migrations."""

    inspected = ("detail", "short_detail")
    list_display = ("at", "key", "verb", "actor", "from_status", "to_status", "short_detail")
    list_filter = (DatabaseFilter, "verb")
    search_fields = ("key", "actor")
    ordering = ("-pk",)

    @admin.display(description=_("detail"))
    def short_detail(self, event: Event) -> str:
        return Truncator(event.detail).chars(MAX_MESSAGE)


class RecordList(ChangeList):
    """A change list that reads the progress of all its migrations at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        all_progress = overview.progress_by_key(list(self.result_list), alias_of(request))
        for record in self.result_list:
            record.progress = all_progress[record.pk]


class ShardInline(TabularInline):
    """The shards of a migration."""

    model = ShardRecord
    fields = (
        *("stage", "index", "processed", "changed", "skipped", "failed"),
        *("is_done", "worker", "heartbeat_at", "lease_until"),
    )
    readonly_fields = fields
    extra = 0
    can_delete = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[ShardRecord]:
        return super().get_queryset(request).using(alias_of(request))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True  # a user who may view the record may view its shards

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(MigrationRecord)
class MigrationRecordAdmin(ReadOnlyAdmin):
    """The migration records: read-only, with an action for each permission of the user."""

    inspected = ("last_error", "stalled_error")
    list_display = ("key", "shown_status", "progress", "launched_by", "launched_at", "finished_at")
    list_filter = (DatabaseFilter, "status")
    search_fields = ("key",)
    actions = actions.for_verbs()
    inlines = (ShardInline,)
    fields = (
        *("key", "shown_status", "progress", "last_error", "failed_objects", "events", "stage", "total"),
        *("launched_by", "launched_at", "started_at", "finished_at", "attempt_id", "backend"),
    )
    readonly_fields = ("shown_status", "progress", "failed_objects", "events")

    def has_forget_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may forget migrations."""
        return may(request, "forget")

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may launch, retry, restart and fake migrations."""
        return may(request, "run")

    def has_control_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may pause, resume and cancel migrations."""
        return may(request, "control")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_run_permission(request)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RecordList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        record: Any = super().get_object(request, object_id, from_field)
        if record is not None:
            record.progress = overview.progress_by_key([record], alias_of(request))[record.pk]
        return record

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        """Return the operator actions and the actions of the records' backends. Django passes a location since 6.1."""
        where = {} if action_location is None else {"action_location": action_location}
        found: dict[str, Any] = super().get_actions(request, **where)
        records = MigrationRecord.objects.using(alias_of(request)).only("key", "backend")
        allowed = {"run": self.has_run_permission, "control": self.has_control_permission}
        for offered in api.backend_actions(list(records)):
            if allowed[offered.permission](request):
                action = self.get_action(actions.for_backend(offered), **where)
                if action is not None:
                    found[actions.name_of(offered)] = action
        return found

    @outside_transactions
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list, with a link to the pages if the project includes their URLs."""
        try:
            pages_url = reverse("massmigration_manage")
        except NoReverseMatch:
            pages_url = ""
        return super().changelist_view(request, {"pages_url": pages_url, **(extra_context or {})})

    @outside_transactions
    @with_tables
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Launch a migration that has no record, or mark it as applied."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        refuse_unstorable(request)
        db_alias = alias_of(request)
        if request.method == "POST":
            verb, key = VERBS["fake" if "_fake" in request.POST else "launch"], request.POST.get("key", "")
            if actions.CONFIRMED not in request.POST and (question := _question(verb, key)):
                fields = [(name, request.POST[name]) for name in ("key", "_fake") if name in request.POST]
                return actions.ask(self, request, [key], verb.label, question, fields)
            actions.perform_verb(request, verb, [key], db_alias)
            return HttpResponseRedirect(self._list("migrationrecord", **{PARAMETER: db_alias}))
        entries = overview.read(db_alias)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Launch a mass migration"),
            "db_alias": db_alias,
            "keys": [entry.key for entry in entries if entry.record is None and entry.migration and entry.is_allowed],
            "list_url": self._list("migrationrecord", **{PARAMETER: db_alias}),
        }
        return TemplateResponse(request, LAUNCH_TEMPLATE, context)

    @admin.display(description=_("status"), ordering="status")
    def shown_status(self, record: MigrationRecord) -> str:
        return str(formatting.badge(record).text)

    @admin.display(description=_("progress"))
    def progress(self, record: Any) -> str:
        progress = record.progress
        return ", ".join(
            filter(None, [formatting.percent(progress), formatting.stage_text(progress), _failed(progress.failed)])
        )

    @admin.display(description=_("failed objects"))
    def failed_objects(self, record: MigrationRecord) -> str:
        return self._link("failedobject", gettext("Show failed objects"), record__exact=record.pk, **_database(record))

    @admin.display(description=_("events"))
    def events(self, record: MigrationRecord) -> str:
        return self._link("event", gettext("Show events"), key=record.pk, **_database(record))

    def _link(self, model: str, text: str, **query: str) -> str:
        return format_html('<a href="{}">{}</a>', self._list(model, **query), text)

    def _list(self, model: str, **query: str) -> str:
        address = reverse(f"admin:massmigration_{model}_changelist", current_app=self.admin_site.name)
        return f"{address}?{urlencode(query)}"


def _question(verb: Verb, key: str) -> str:
    """Return the text to confirm before the action on a migration without a record; empty if there is none."""
    return str(verb.question) if verb.is_irreversible else confirmation_of(store.by_key.get(key))


def _failed(count: int) -> str:
    return formatting.failed(count) if count else ""


def _database(record: MigrationRecord) -> dict[str, str]:
    return {PARAMETER: str(record._state.db)}
