"""The page that previews and launches a migration, and shows the results of a dry run."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db import DatabaseError
from django.db.models.signals import post_save, pre_save
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from massmigration import api, dryrun
from massmigration.definitions.stages import MappedStage, OnceStage, without_waits
from massmigration.dialects import dialect_of
from massmigration.dialects.base import Access
from massmigration.dialects.errors import with_advice
from massmigration.dryrun import DryRun, ObjectResult
from massmigration.exceptions import MassMigrationError
from massmigration.paging import statistics
from massmigration.paging.explain import explain
from massmigration.paging.querysets import prepare
from massmigration.text import described
from massmigration.verbs import VERBS
from massmigration.views import actions, base, buttons, formatting
from massmigration.views.base import Target, find, page
from massmigration.views.buttons import is_confirmed
from massmigration.views.detail import dependencies, header

MAX_VALUE = 200
"""Length to which values are shortened."""

SIZE = 10
"""Default number of objects of a dry run."""

MAX_SIZE = 100
"""Maximum number of objects of a dry run on this page."""

VERDICTS = {
    Access.SEEK: _("Each batch is found through an index; further conditions are checked row by row."),
    Access.SCAN: _("No index fits: each batch reads every row of the table. The database prefers this for a small "
                   "table. For a large one, add an index or remove conditions from the queryset."),
    Access.SORT: _("No index has the order of the batches: each batch sorts all matching rows again. "
                   "Add an index that starts with the filtered columns and ends with the primary key."),
    Access.EMPTY: _("No row matches."),
    Access.UNKNOWN: _("This database does not report how it reads the rows."),
}  # fmt: skip


def preview_context(target: Target) -> dict[str, Any]:
    """Return what the first stage will do. Errors of the migration's code become warnings."""
    if target.migration is None or not target.is_allowed():
        return {}
    try:
        stages = without_waits(target.migration.get_stages())
    except MassMigrationError as error:
        has_own_launch = type(target.migration).__dict__.get("launch") is not None
        return {"is_own": True} if has_own_launch else {"warnings": [str(error)]}
    except Exception as error:
        return {"warnings": [_raised("get_stages()", error)]}
    if not stages:
        return {}
    stage = stages[0]
    context: dict[str, Any] = {"stage_count": len(stages), "is_once": isinstance(stage, OnceStage)}
    warnings = [] if all(each.atomic for each in stages) else [_not_atomic()]
    if isinstance(stage, MappedStage):
        context |= _of_queryset(stage, target, warnings)
    return {**context, "warnings": warnings}


def _of_queryset(stage: MappedStage, target: Target, warnings: list[str]) -> dict[str, Any]:
    try:
        queryset = prepare(stage.get_queryset(target.db_alias), target.db_alias, name=stage.name, may_leave=True)
        is_estimated = statistics.is_huge(queryset)
        total = statistics.estimate(queryset) if is_estimated else queryset.count()
        plan = explain(queryset, stage.keyset(queryset.model))
        triggers = dialect_of(queryset.db).trigger_names(queryset.model)
    except MassMigrationError as error:
        warnings.append(str(error))
        return {}
    except Exception as error:
        warnings.append(_raised("get_queryset()", error))
        return {}
    if triggers:
        text = gettext("The table %(table)s has triggers that run for each written row: %(names)s.")
        warnings.append(text % {"table": queryset.model._meta.db_table, "names": ", ".join(triggers)})
    sent = signals_sent(stage, queryset.model)
    if sent:
        text = gettext(
            "The operation saves each object itself, which sends signals that have receivers for %(model)s: "
            "%(names)s. With update_fields, the engine writes the rows and sends no signals."
        )
        warnings.append(text % {"model": queryset.model._meta.label, "names": ", ".join(sent)})
    text = gettext("about %(number)s") if is_estimated else "%(number)s"
    return {
        "total": text % {"number": formatting.number(total)},
        "model": queryset.model._meta.label,
        "plan": plan,
        "verdict": VERDICTS[plan.access],
        "is_slow": plan.access in (Access.SCAN, Access.SORT),
    }


def _not_atomic() -> str:
    return gettext(
        "The migration has atomic = False: after a crash, its operation may run again for some objects. A dry run is "
        "not possible."
    )


def _raised(what: str, error: Exception) -> str:
    text = gettext("%(what)s raised %(error)s. A run would fail with the same error.")
    return text % {"what": what, "error": described(with_advice(error))}


def dry_run_context(found: DryRun) -> dict[str, Any]:
    """Return the context of the results of a dry run."""
    failed = sum(bool(result.error) for result in found.objects)
    is_mapped = any(result.object_pk for result in found.objects)
    return {
        "objects": [_object(result) for result in found.objects],
        "count": len(found.objects),
        "failed": formatting.failed(failed) if failed else "",
        "has_changed_nothing": found.has_changed_nothing,
        "unwritten": ", ".join(found.unwritten),
        "mails": found.mails,
        "sends": found.sends,
        "rate": formatting.rate(found.rate) if is_mapped else "",
        "estimate": formatting.elapsed(found.estimate) if is_mapped else "",
        "total": formatting.number(found.total),
        "duration": formatting.elapsed(found.duration),
    }


def _object(result: ObjectResult) -> dict[str, Any]:
    changes = [
        {"field": name, "before": _value(before), "after": _value(after)}
        for name, (before, after) in result.changes.items()
    ]
    pk = formatting.value_of(result.object_pk)
    return {"pk": pk, "changes": changes, "error": result.error, "is_gone": result.is_gone}


def _value(value: Any) -> str:
    return Truncator(repr(value)).chars(MAX_VALUE)


@page("run", posts=True)
def run(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """Show the preview (GET); launch the migration, or make a dry run if `dry_run` is given (POST)."""
    target = find(key, db_alias)
    is_dry_run = "dry_run" in request.POST
    if request.method == "POST" and not is_dry_run:
        return _launch(request, target)
    return _show(request, target, _dry_run(request, target) if is_dry_run else None)


def _launch(request: HttpRequest, target: Target) -> HttpResponse:
    if target.needs_confirmation(VERBS["launch"]) and not is_confirmed(request, target):
        return _show(request, target, None)
    try:
        api.launch(target.key, target.db_alias)
    except MassMigrationError as error:
        messages.error(request, str(error))
    else:
        success_message = VERBS["launch"].success_message % {"key": target.key, "db": target.db_alias}
        actions.report(request, target.key, target.db_alias, success_message=success_message, logged="Launch.")
    return HttpResponseRedirect(reverse("massmigration_detail", args=[target.key, target.db_alias]))


def _dry_run(request: HttpRequest, target: Target) -> dict[str, Any]:
    """Return the results of a dry run as context, or the reason why there are none."""
    given = request.POST.get("size", "").strip()
    try:
        size = int(given)
    except ValueError:
        size = 0
    if not 1 <= size <= MAX_SIZE:
        text = gettext("A dry run takes 1 to %(most)s objects. You entered %(given)r.")
        return {"error": text % {"most": MAX_SIZE, "given": given}, "size": given[:20]}
    try:
        return {"size": size, **dry_run_context(dryrun.dry_run(target.key, target.db_alias, size))}
    except MassMigrationError as error:
        return {"error": str(error), "size": size}
    except DatabaseError as error:
        text = gettext("The database raised an error: %(error)s. Nothing was changed.")
        return {"error": text % {"error": error}, "size": size}


def _show(request: HttpRequest, target: Target, results: dict[str, Any] | None) -> HttpResponse:
    health = api.backend_health(target.key) if target.migration else None
    context = {
        "title": gettext("Run %(key)s") % {"key": target.key},
        "tab": "run",
        "health": health,
        "dependencies": dependencies(target),
        "refusal": _refusal(target),
        "button": buttons.for_verb("launch", target),
        "dry_run": results,
        "size": results["size"] if results else SIZE,
        "max_size": MAX_SIZE,
        "source": _source(target),
        **preview_context(target),
        **header(request, target),
    }
    return base.render(request, "run", context)


def _refusal(target: Target) -> str:
    """Return why the migration cannot be launched now, in the words in which the launch refuses it."""
    if target.migration is None:
        return target.file_error or gettext("The migration's file is missing.")
    try:
        target.migration.check_db_alias(target.db_alias)
        if target.record is None:
            target.migration.check_dependencies(target.db_alias)
    except MassMigrationError as error:
        return str(error)
    return ""


def _source(target: Target) -> dict[str, str] | None:
    path = target.migration.source_path if target.migration else None
    if path is None:
        return None
    try:
        return {"path": "/".join(path.parts[-3:]), "text": path.read_text(encoding="utf-8", errors="replace")}
    except OSError:
        return None


def signals_sent(stage: MappedStage, model: Any) -> list[str]:
    """Return the names of the signals that the operation sends by saving objects, and that have receivers."""
    if stage.operation is None or stage.update_fields is not None:
        return []
    return [name for name, signal in (("pre_save", pre_save), ("post_save", post_save)) if signal.has_listeners(model)]
