"""Lets an admin page show the rows of one database of several, and shows them read-only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from massmigration import tables
from massmigration.exceptions import RecordsUnreadable
from massmigration.views.access import outside_transactions

PARAMETER = "db"
VIEW = "massmigration.view_migrationrecord"

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin  # not generic where the program runs

_M = TypeVar("_M", bound=Model)


def alias_of(request: HttpRequest) -> str:
    """The database named in the page's address, or in that of the list which it was reached from."""
    before = QueryDict(request.GET.get("_changelist_filters", ""))
    given = request.GET.get(PARAMETER) or before.get(PARAMETER)
    return given if given and given in connections else DEFAULT_DB_ALIAS


class DatabaseFilter(admin.SimpleListFilter):
    """One database at a time, the default one first."""

    title = _("database")
    parameter_name = PARAMETER

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        self._chosen = alias_of(request)
        aliases = sorted(connections, key=lambda alias: alias != DEFAULT_DB_ALIAS)
        return [(alias, alias) for alias in aliases]

    def has_output(self) -> bool:
        return len(self.lookup_choices) > 1

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        for alias, title in self.lookup_choices:
            address = changelist.get_query_string({PARAMETER: str(alias)})
            yield {"selected": alias == self._chosen, "query_string": address, "display": title}

    def queryset(self, request: HttpRequest, queryset: QuerySet[_M]) -> QuerySet[_M]:
        return queryset  # the admin has chosen already, for its other pages too


class ReadOnlyAdmin(ModelAdmin):
    """What who may view migration records may look at."""

    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).using(alias_of(request))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(VIEW)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(VIEW)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @outside_transactions
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        db_alias = alias_of(request)
        try:
            tables.check(db_alias)
        except RecordsUnreadable as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))
        return super().changelist_view(request, {"db_alias": db_alias, **(extra_context or {})})
