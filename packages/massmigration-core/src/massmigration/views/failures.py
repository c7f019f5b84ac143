"""The failed objects of one migration: by cause, with links and actions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db import router
from django.db.models import Count, Max, Min
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode
from django.utils.translation import gettext, ngettext

from massmigration import api
from massmigration.definitions.stages import MappedStage
from massmigration.exceptions import MassMigrationError
from massmigration.models import FailedObject
from massmigration.paging.keyset import decode_key
from massmigration.recorder import attempts
from massmigration.views import actions, base, formatting
from massmigration.views.base import Target, find, may, page, require
from massmigration.views.detail import header

GROUPS, OBJECTS, SAMPLES = 20, 50, 5
"""Causes on a page, objects on the page of one cause, and objects shown of each cause."""

_ID = re.compile(r"[0-9]{1,19}")


class Links:
    """Links to the admin pages of a migration's objects."""

    def __init__(self, request: HttpRequest, target: Target) -> None:
        self._request = request
        self._target = target
        self._models: dict[int, Any] = {}

    def shown(self, objects: Iterable[FailedObject]) -> list[dict[str, Any]]:
        """Return the failed objects with their keys as text and their links, for the template."""
        return [{"failed": each, "pk": formatting.value_of(each.object_pk), "url": self._url(each)} for each in objects]

    def _url(self, failed: FailedObject) -> str:
        if failed.object_pk is None or len(failed.object_pk) != 1:
            return ""
        if failed.stage not in self._models:
            self._models[failed.stage] = self._model(failed.stage)
        model = self._models[failed.stage]
        if model is None:
            return ""
        from django.contrib.admin.utils import quote  # importable only if the admin is installed, as it is here

        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
        try:
            (value,) = decode_key(failed.object_pk)
            return reverse(name, args=[quote(value)])
        except (NoReverseMatch, ValueError):
            return ""

    def _model(self, stage: int) -> Any:
        """Return the model of a stage if the admin shows its objects, of this database, to the user; otherwise None."""
        if not base.has_admin() or self._target.migration is None:
            return None
        from django.contrib import admin  # importable only if the app is installed

        try:
            found = self._target.migration.get_stages()[stage]
            model = found.get_queryset(self._target.db_alias).model if isinstance(found, MappedStage) else None
        except Exception:  # raised by code of the migration, which may have changed; then there is no link
            return None
        model_admin = admin.site._registry.get(model) if model else None
        if model is None or model_admin is None or router.db_for_read(model) != self._target.db_alias:
            return None
        return model if model_admin.has_view_or_change_permission(self._request) else None


@page(posts=True)
def failures(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """Show the causes, or with `group` the objects of one (GET); retry or resolve failed objects (POST)."""
    target = find(key, db_alias)
    if request.method == "POST":
        require(request, "run")
        return _act(request, target)
    unresolved = attempts.unresolved(db_alias, key)
    group = request.GET.get("group", "")
    context = {
        "title": gettext("Failed objects: %(key)s") % {"key": key},
        "tab": "failures",
        "may_retry": may(request, "run") and target.status in attempts.RETRIED,
        "may_resolve": may(request, "run") and target.status in attempts.RESOLVABLE,
        "group": group,
        "total": unresolved.count(),
        "query": urlencode({"group": group}) if group else "",
        **header(request, target),
    }
    links = Links(request, target)
    groups = (
        unresolved.values("fingerprint")
        .order_by("fingerprint")
        .annotate(
            count=Count("pk"), first_at=Min("failed_at"), last_at=Max("failed_at"), sample=Min("pk"), last=Max("pk")
        )
        .order_by("-count", "sample")
    )
    if group:
        objects = unresolved.filter(fingerprint=group).order_by("pk")
        shown = Paginator(objects, OBJECTS).get_page(request.GET.get("page"))
        context |= {"page": shown, "groups": _groups(list(groups.filter(fingerprint=group)), target, links, shown)}
        return base.render(request, "failures", context)
    shown_groups = Paginator(groups, GROUPS).get_page(request.GET.get("page"))
    context |= {"page": shown_groups, "groups": _groups(list(shown_groups), target, links)}
    context["resolved"] = _resolved(target, links)
    return base.render(request, "failures", context)


def _groups(
    found: list[Any], target: Target, links: Links, objects: Iterable[FailedObject] | None = None
) -> list[dict[str, Any]]:
    """Return the causes for the template, each with a few objects, or with `objects`."""
    pks = [pk for group in found for pk in (group["sample"], group["last"])]
    samples = FailedObject.objects.using(target.db_alias).in_bulk(pks)
    shown = []
    for group in found:
        first, last = samples.get(group["sample"]), samples.get(group["last"])
        if first is None or last is None:  # deleted in the meantime
            continue
        some = list(_samples(target, group["fingerprint"]) if objects is None else objects)
        other = last.message if last.message != first.message else ""
        shown.append(
            {
                **group,
                "shown_count": formatting.failed(group["count"]),
                "failed": first,
                "class": first.exception_class.rpartition(".")[2],
                "other_message": other,
                "objects": links.shown(some),
                "is_uniform": all(each.message == first.message for each in some),
                "more": max(0, group["count"] - SAMPLES) if objects is None else 0,
            }
        )
    return shown


def _samples(target: Target, fingerprint: str) -> Any:
    found = attempts.unresolved(target.db_alias, target.key).filter(fingerprint=fingerprint)
    return found.defer("traceback").order_by("pk")[:SAMPLES]


def _resolved(target: Target, links: Links) -> list[dict[str, Any]]:
    """Return the objects that operators marked as resolved, newest first."""
    found = FailedObject.objects.using(target.db_alias).filter(record_id=target.key, resolved_at__isnull=False)
    return links.shown(found.exclude(resolution="").defer("traceback").order_by("-resolved_at", "-pk")[:OBJECTS])


def _act(request: HttpRequest, target: Target) -> HttpResponse:
    """Retry or resolve the failed objects in `ids` or of `group`, or all of them."""
    url = reverse("massmigration_failures", args=[target.key, target.db_alias])
    ids = [_id(given) for given in request.POST.getlist("ids")] if "ids" in request.POST else None
    group = request.POST.get("group")
    try:
        if request.POST.get("do") == "retry":
            api.retry_failed(target.key, target.db_alias, ids=ids, fingerprint=group)
            text = gettext("%(key)s was started to retry them.") % {"key": target.key}
            actions.report(
                request, target.key, target.db_alias, success_message=text, logged="Retry of failed objects."
            )
            url = reverse("massmigration_detail", args=[target.key, target.db_alias])
        elif request.POST.get("do") == "resolve":
            reason = request.POST.get("reason", "")
            count = api.resolve(target.key, target.db_alias, reason=reason, ids=ids, fingerprint=group)
            text = ngettext(
                "%(count)s failed object was marked as resolved.",
                "%(count)s failed objects were marked as resolved.",
                count,
            )
            messages.success(request, text % {"count": formatting.number(count)})
            actions.log_action(request, target.key, target.db_alias, f"Resolve: {count}.")
        else:
            messages.error(request, gettext("Nothing was changed: the possible actions are retry and resolve."))
    except MassMigrationError as error:
        messages.error(request, str(error))
    return HttpResponseRedirect(url)


def _id(given: str) -> Any:
    """Return an id. Other text is returned as it is and refused below: without it, more objects might match."""
    return int(given) if _ID.fullmatch(given) else given
