"""The migration records in the admin."""

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
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from massmigration import api, overview
from massmigration.admin import actions
from massmigration.admin.databases import PARAMETER, DatabaseFilter, ReadOnlyAdmin, alias_of
from massmigration.loader import store
from massmigration.models import MigrationRecord, ShardRecord
from massmigration.verbs import VERBS, Verb
from massmigration.views import words
from massmigration.views.access import outside_transactions
from massmigration.views.buttons import LABELS, QUESTIONS
from massmigration.views.targets import confirmation_of

if TYPE_CHECKING:
    TabularInline = admin.TabularInline[ShardRecord, MigrationRecord]
else:
    TabularInline = admin.TabularInline  # not generic where the program runs

LAUNCH_TEMPLATE = "admin/massmigration/launch.html"


class RecordList(ChangeList):
    """Reads how far all the migrations of a page are at once."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        readings = overview.readings_of(list(self.result_list), alias_of(request))
        for record in self.result_list:
            record.reading = readings[record.pk]


class ShardInline(TabularInline):
    """The shards of a migration."""

    model = ShardRecord
    fields = ("stage", "index", "processed", "skipped", "failed", "is_done", "worker", "heartbeat_at", "lease_until")
    readonly_fields = fields
    extra = 0
    can_delete = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[ShardRecord]:
        return super().get_queryset(request).using(alias_of(request))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True  # to whom the record is shown

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(MigrationRecord)
class MigrationRecordAdmin(ReadOnlyAdmin):
    """Read-only, but for the actions, each of which needs its permission."""

    list_display = ("key", "shown_status", "progress", "launched_by", "launched_at", "finished_at")
    list_filter = (DatabaseFilter, "status")
    search_fields = ("key",)
    actions = actions.of_verbs()
    inlines = (ShardInline,)
    fields = (
        *("key", "shown_status", "progress", "last_error", "failed_objects", "events", "stage", "total"),
        *("launched_by", "launched_at", "started_at", "finished_at", "attempt_id", "backend"),
    )
    readonly_fields = ("shown_status", "progress", "failed_objects", "events")

    def has_forget_permission(self, request: HttpRequest) -> bool:
        """To forget."""
        return request.user.has_perm("massmigration.forget_migrationrecord")

    def has_run_permission(self, request: HttpRequest) -> bool:
        """To launch, retry, restart and fake."""
        return request.user.has_perm("massmigration.run_migrationrecord")

    def has_control_permission(self, request: HttpRequest) -> bool:
        """To pause, resume and cancel."""
        return request.user.has_perm("massmigration.control_migrationrecord")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_run_permission(request)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RecordList

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        record: Any = super().get_object(request, object_id, from_field)
        if record is not None:
            record.reading = overview.readings_of([record], alias_of(request))[record.pk]
        return record

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        """The verbs, and what the backends of the records offer. Django has locations since 6.1."""
        where = {} if action_location is None else {"action_location": action_location}
        found: dict[str, Any] = super().get_actions(request, **where)
        records = MigrationRecord.objects.using(alias_of(request)).only("key", "backend")
        allowed = {"run": self.has_run_permission, "control": self.has_control_permission}
        for offer in api.backend_actions(list(records)):
            if allowed[offer.permission](request):
                offered = self.get_action(actions.of_backend(offer), **where)
                if offered is not None:
                    found[actions.name_of(offer)] = offered
        return found

    @outside_transactions
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """With a way to the pages, where the project has given them an address."""
        try:
            pages_url = reverse("massmigration_manage")
        except NoReverseMatch:
            pages_url = ""
        return super().changelist_view(request, {"pages_url": pages_url, **(extra_context or {})})

    @outside_transactions
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Launch a migration that has no record, or mark it as applied."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        db_alias = alias_of(request)
        if request.method == "POST":
            verb, key = VERBS["fake" if "_fake" in request.POST else "launch"], request.POST.get("key", "")
            if actions.CONFIRMED not in request.POST and (question := _question(verb, key)):
                fields = [(name, request.POST[name]) for name in ("key", "_fake") if name in request.POST]
                return actions.ask(self, request, [key], LABELS[verb.name], question, fields)
            actions.give(request, verb, [key], db_alias)
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
        return str(words.badge(record).text)

    @admin.display(description=_("progress"))
    def progress(self, record: Any) -> str:
        reading = record.reading
        return ", ".join(filter(None, [words.percent(reading), words.standing(reading), _failed(reading.failed)]))

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
    """What is to be confirmed before a migration without a record is given the verb; empty: nothing."""
    return str(QUESTIONS[verb.name]) if verb.is_grave else confirmation_of(store.by_key.get(key))


def _failed(count: int) -> str:
    return words.failed(count) if count else ""


def _database(record: MigrationRecord) -> dict[str, str]:
    return {PARAMETER: str(record._state.db)}
