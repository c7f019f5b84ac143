"""The failed objects of one migration: by cause, with what can be done about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Count, Max, Min
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext, ngettext

from massmigration import api
from massmigration.exceptions import MassMigrationError
from massmigration.models import FailedObject
from massmigration.recorder import resolving
from massmigration.states import Status
from massmigration.views import frame, noting, words
from massmigration.views.access import may, page, require
from massmigration.views.detail import header
from massmigration.views.objects import Links
from massmigration.views.targets import Target, find

GROUPS, OBJECTS, SAMPLES = 20, 50, 5
"""Shown on a page, of causes and of one cause's objects; objects shown of each cause."""

RETRIED = frozenset({Status.FAILED, Status.CANCELLED})


@page(posts=True)
def failures(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """GET shows the causes, or with `group` the objects of one. POST retries or resolves some."""
    target = find(key, db_alias)
    if request.method == "POST":
        require(request, "run")
        return _act(request, target)
    unresolved = resolving.unresolved(db_alias, key)
    group = request.GET.get("group", "")
    context = {
        "title": gettext("Failed objects: %(key)s") % {"key": key},
        "tab": "failures",
        "may_retry": may(request, "run") and target.status in RETRIED,
        "may_resolve": may(request, "run") and target.status in resolving.RESOLVABLE,
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
        return frame.render(request, "failures", context)
    shown_groups = Paginator(groups, GROUPS).get_page(request.GET.get("page"))
    context |= {"page": shown_groups, "groups": _groups(list(shown_groups), target, links)}
    context["resolved"] = _resolved(target, links)
    return frame.render(request, "failures", context)


def _groups(
    found: list[Any], target: Target, links: Links, objects: Iterable[FailedObject] | None = None
) -> list[dict[str, Any]]:
    """With a few objects of each, or with these."""
    pks = [pk for group in found for pk in (group["sample"], group["last"])]
    samples = FailedObject.objects.using(target.db_alias).in_bulk(pks)
    shown = []
    for group in found:
        first, last = samples.get(group["sample"]), samples.get(group["last"])
        if first is None or last is None:  # resolved and forgotten since
            continue
        some = list(_samples(target, group["fingerprint"]) if objects is None else objects)
        other = last.message if last.message != first.message else ""
        shown.append(
            {
                **group,
                "shown_count": words.failed(group["count"]),
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
    found = resolving.unresolved(target.db_alias, target.key).filter(fingerprint=fingerprint)
    return found.defer("traceback").order_by("pk")[:SAMPLES]


def _resolved(target: Target, links: Links) -> list[dict[str, Any]]:
    """The last that an operator marked, with the reason."""
    found = FailedObject.objects.using(target.db_alias).filter(record_id=target.key, resolved_at__isnull=False)
    return links.shown(found.exclude(resolution="").defer("traceback").order_by("-resolved_at", "-pk")[:OBJECTS])


def _act(request: HttpRequest, target: Target) -> HttpResponse:
    """`ids`, or `group`, or neither for all."""
    address = reverse("massmigration_failures", args=[target.key, target.db_alias])
    ids = [int(each) for each in request.POST.getlist("ids") if each.isdecimal()] or None
    group = request.POST.get("group") or None
    try:
        if request.POST.get("do") == "retry":
            api.retry_failed(target.key, target.db_alias, ids=ids, fingerprint=group)
            said = gettext("%(key)s does them again.") % {"key": target.key}
            noting.report(request, target.key, target.db_alias, said=said, entry="Retry of failed objects.")
            address = reverse("massmigration_detail", args=[target.key, target.db_alias])
        elif request.POST.get("do") == "resolve":
            reason = request.POST.get("reason", "")
            count = api.resolve(target.key, target.db_alias, reason=reason, ids=ids, fingerprint=group)
            text = ngettext(
                "%(count)s failed object was marked as resolved.",
                "%(count)s failed objects were marked as resolved.",
                count,
            )
            messages.success(request, text % {"count": words.number(count)})
            noting.note(request, target.key, target.db_alias, f"Resolve: {count}.")
        else:
            messages.error(request, gettext("Nothing was done: retry and resolve are what can be done here."))
    except MassMigrationError as error:
        messages.error(request, str(error))
    return HttpResponseRedirect(address)
