"""A read-only admin that shows the rows of one database at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from massmigration.exceptions import RecordsUnreadable
from massmigration.recorder import tables
from massmigration.views.base import is_storable, may, outside_transactions, refuse_unstorable

PARAMETER = "db"
MAX_SEARCH = 255
VIEW = "massmigration.view_migrationrecord"

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin  # generic only in its type stubs

_M = TypeVar("_M", bound=Model)


def alias_of(request: HttpRequest) -> str:
    """Return the database in the URL of the page, or of the list that led to it."""
    before = QueryDict(request.GET.get("_changelist_filters", ""))
    given = request.GET.get(PARAMETER) or before.get(PARAMETER)
    return given if given and given in connections else DEFAULT_DB_ALIAS


class DatabaseFilter(admin.SimpleListFilter):
    """A filter that selects one database, by default `default`."""

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
        return queryset  # `ReadOnlyAdmin.get_queryset` has selected the database


def with_tables(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Make a method of an admin redirect to the index with a message if the database does not have the tables."""

    @functools.wraps(view)
    def guarded(self: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            tables.require(alias_of(request))
        except RecordsUnreadable as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))
        return view(self, request, *args, **kwargs)

    return guarded


class ReadOnlyAdmin(ModelAdmin):
    """A read-only admin for users who may view migration records."""

    show_full_result_count = False

    inspected: tuple[str, ...] = ()
    """Names of fields that only users with the permission to inspect can see: they may contain data of rows."""

    def hidden(self, request: HttpRequest) -> tuple[str, ...]:
        """Return the names of the fields that the user cannot see."""
        return () if may(request, "inspect") else self.inspected

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return _without(super().get_fields(request, obj), self.hidden(request))

    def get_list_display(self, request: HttpRequest) -> Any:
        return _without(super().get_list_display(request), self.hidden(request))

    def get_search_fields(self, request: HttpRequest) -> Any:
        return _without(super().get_search_fields(request), self.hidden(request))

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

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        return super().get_object(request, object_id, from_field) if is_storable([object_id]) else None

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Search for the first characters of a long term, because databases refuse long patterns."""
        return super().get_search_results(request, queryset, search_term[:MAX_SEARCH])

    @outside_transactions
    @with_tables
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        refuse_unstorable(request)
        if any(name.partition("__")[0] in self.hidden(request) for name in request.GET):
            raise PermissionDenied  # a filter would reveal a text character by character
        return super().changelist_view(request, {"db_alias": alias_of(request), **(extra_context or {})})

    @with_tables
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().changeform_view(request, *args, **kwargs)

    @with_tables
    def history_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().history_view(request, *args, **kwargs)


def _without(names: Sequence[Any], hidden: Sequence[str]) -> list[Any]:
    return [name for name in names if name not in hidden]
