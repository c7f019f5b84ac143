"""What can be known of a migration before it is run: its rows, its query, and what to beware of."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from massmigration import estimates, hazards, queryplan
from massmigration.definitions.stages import MappedStage, OnceStage
from massmigration.exceptions import MassMigrationError
from massmigration.queryplan import Access
from massmigration.querysets import prepare
from massmigration.views import words
from massmigration.views.targets import Target

VERDICTS = {
    Access.SEEK: _("An index leads to each batch; conditions beyond its key are checked row by row."),
    Access.SCAN: _("No index leads to a batch: every row of the table is read for each of them. On a small table "
                   "that is what the database prefers; on a big one, add an index or drop conditions."),
    Access.SORT: _("No index has the order of the batches: all rows that match are sorted again for each of them. "
                   "Add an index that begins with the conditions and ends with the primary key."),
    Access.EMPTY: _("There is no row to work at."),
    Access.UNKNOWN: _("This database does not say how it would read them."),
}  # fmt: skip


def of_target(target: Target) -> dict[str, Any]:
    """Of the first stage. What the user's code raises becomes a warning."""
    if target.migration is None or not target.is_allowed():
        return {}
    try:
        stages = list(target.migration.get_stages())
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
        is_estimated = estimates.is_huge(queryset)
        total = estimates.estimate(queryset) if is_estimated else queryset.count()
        plan = queryplan.explain(queryset)
        triggers = hazards.triggers(queryset.model, queryset.db)
    except MassMigrationError as error:
        warnings.append(str(error))
        return {}
    except Exception as error:
        warnings.append(_raised("get_queryset()", error))
        return {}
    if triggers:
        text = gettext("The table %(table)s has triggers, which run for each row that is written: %(names)s.")
        warnings.append(text % {"table": queryset.model._meta.db_table, "names": ", ".join(triggers)})
    sent = hazards.signals_sent(stage, queryset.model)
    if sent:
        text = gettext(
            "The operation saves each object itself, and signals have receivers for %(model)s: %(names)s. "
            "With update_fields the engine writes instead, and sends none."
        )
        warnings.append(text % {"model": queryset.model._meta.label, "names": ", ".join(sent)})
    text = gettext("about %(number)s") if is_estimated else "%(number)s"
    return {
        "total": text % {"number": words.number(total)},
        "model": queryset.model._meta.label,
        "plan": plan,
        "verdict": VERDICTS[plan.access],
        "is_slow": plan.access in (Access.SCAN, Access.SORT),
    }


def _not_atomic() -> str:
    return gettext(
        "It has atomic = False: after a crash, effects outside of the database may be repeated, and it cannot be tried."
    )


def _raised(what: str, error: Exception) -> str:
    text = gettext("%(what)s raised %(error)s. A run would fail in the same way.")
    return text % {"what": what, "error": f"{type(error).__name__}: {error}"}
