"""The page of one migration on one database, and its live part as JSON."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext

from massmigration import api, text
from massmigration.definitions.details import Detail, MigrationAction, actions_of, details_of, json_of
from massmigration.progress import WAITING, Snapshot, has_code_changed, idle_time
from massmigration.states import ACTIVE, FINAL, Status
from massmigration.verbs import VERBS
from massmigration.views import base, buttons, formatting
from massmigration.views.base import Target, find, may, page, statuses

logger = logging.getLogger(__name__)

FAST, SLOW = 1000, 5000
"""Milliseconds between two requests of the page's script, while the migration is active and while it is paused."""

ICONS = {"info": "", "success": "applied", "warning": "stuck", "error": "failed"}
"""The icons of details by level."""

PARTS = ("badge", "figures", "notices", "shards", "details", "actions")

MAX_SHARDS = 40


@page(is_json=True)
def status(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """Return the live part as JSON. The current rate is measured since the earlier `sample` in `?at=...&done=...`."""
    target = find(key, db_alias)
    extras = own_context(request, target)
    context = {**context_of(target, request.GET), **extras, "may_inspect": may(request, "inspect")}
    parts = {name: render_to_string(f"massmigration/live/{name}.html", context, request) for name in PARTS}
    return JsonResponse(
        {
            "status": target.status,
            "seen": target.version,
            "poll": _interval(target.status),
            "progress": context["permille"],
            "sample": context["sample"],
            "verbs": [verb.name for verb in target.verbs(request) if target.allows(verb)],
            "is_stuck": context["is_stuck"],
            "stall": context.get("stall", ""),
            "stalled_error": context.get("stalled_error", "") if context["may_inspect"] else "",
            "throttled_until": context["throttled_until"],
            "throttled_by": context["throttled_by"],
            "is_all_paused": bool(target.snapshot and target.snapshot.progress.is_all_paused),
            "pace": target.snapshot.progress.pace.as_json() if target.snapshot else {},
            "question": target.question,
            "details": [{name: detail[name] for name in ("label", "value", "level")} for detail in extras["details"]],
            "actions": [action.name for action in extras["actions"]],
            "parts": parts,
            "rows": context.get("rows", ""),
            "percent": context.get("percent", ""),
            "said": f"{context['badge'].text} {context.get('percent', '')}".strip(),
        }
    )


def context_of(target: Target, earlier: Any) -> dict[str, Any]:
    """Return the context of the live templates. `earlier` has the values of an earlier `sample`, or is empty."""
    snapshot = target.snapshot
    is_stuck = target.is_stuck
    badge = formatting.badge(target.record, is_stuck=is_stuck)
    context: dict[str, Any] = {"target": target, "badge": badge, "permille": None, "throttled_until": None}
    context |= {"throttled_by": "", "question": target.question}
    if snapshot is None:
        return {**context, "sample": None, "poll": 0, "is_stuck": False}
    record, progress = snapshot.record, snapshot.progress
    sample = _sample(snapshot, target.beat)
    recent = _recent(sample, earlier) if progress.status is Status.RUNNING else None
    shards = [_shard(shard, snapshot) for shard in snapshot.shards]
    return {
        **context,
        "progress": progress,
        "record": record,
        "sample": sample,
        "poll": _interval(progress.status),
        "permille": None if progress.fraction is None else int(progress.fraction * 1000),
        "percent": formatting.percent(progress),
        "rows": formatting.stage_text(progress),
        "changed": formatting.changed(progress),
        "skipped": formatting.skipped(sum(shard.skipped for shard in snapshot.shards)),
        "failed": formatting.failed(progress.failed) if progress.failed else "",
        "left": formatting.left(progress, recent),
        "rate_now": formatting.rate(recent),
        "rate": formatting.rate(progress.rate),
        "elapsed": formatting.elapsed(progress.elapsed),
        "is_stuck": is_stuck,
        "stall": formatting.stall(progress),
        "stalled_error": progress.stalled_error.removeprefix(WAITING),
        "throttled_until": progress.throttled_until and progress.throttled_until.isoformat(),
        "throttled_by": progress.throttled_by,
        "throttle": formatting.throttle(progress),
        "pace_text": str(progress.pace),
        "stuck_shards": ", ".join(str(shard["index"]) for shard in shards if shard["is_stuck"]),
        "idle_time": formatting.duration(idle_time(record, target.beat).total_seconds()),
        "has_code_changed": has_code_changed(record),
        "waiting_for": formatting.elapsed(record.now - record.waiting_since) if record.waiting_since else "",
        "shards": sorted(shards, key=lambda shard: (shard["is_done"], shard["index"]))[:MAX_SHARDS],
        "more_shards": formatting.number(len(shards) - MAX_SHARDS) if len(shards) > MAX_SHARDS else "",
    }


def own_context(request: HttpRequest, target: Target) -> dict[str, Any]:
    """Return the details and actions that the migration defines itself, as far as the user may see them."""
    found = details_of(target.migration, target.db_alias) if target.is_allowed() else []
    actions: list[MigrationAction] = []
    if target.migration is not None and target.is_allowed():
        try:
            actions = actions_of(target.migration, target.db_alias, target.status, reserved=api.RESERVED)
        except Exception as error:  # the user's code must not prevent an operator from seeing the rest
            logger.error("get_actions() of migration %s raised.", target.key, exc_info=text.logged(error))
            problem = f"get_actions() raised {text.line(text.described(error))}"
            found = [*found, Detail(label="Actions", value=problem, level="error", is_sensitive=True)]
    may_inspect = may(request, "inspect")
    shown = [detail for detail in found if may_inspect or not detail.is_sensitive]
    return {
        "details": [
            {
                "label": detail.label,
                "value": json_of(detail.value),
                "level": detail.level,
                "text": formatting.value(detail.value),
                "state": ICONS[detail.level],
            }
            for detail in shown
        ],
        "actions": [action for action in actions if may(request, action.permission)],
    }


def _interval(status: Status | None) -> int:
    """Return the milliseconds until the next request; 0 for none, because the status does not change by itself."""
    if status is None or status in FINAL:
        return 0
    return FAST if status in ACTIVE else SLOW


def _sample(snapshot: Snapshot, beat: dt.datetime | None) -> dict[str, int]:
    """Return the objects done at the last checkpoint, with its time by the clock of the database."""
    at = beat or snapshot.record.now
    return {"at": int(at.timestamp() * 1000), "done": snapshot.progress.done, "stage": snapshot.progress.stage}


def _recent(sample: dict[str, int], earlier: Any) -> float | None:
    """Return the rate between the checkpoints of two samples. Between two requests, one batch would distort it."""
    try:
        milliseconds, done = sample["at"] - int(earlier["at"]), sample["done"] - int(earlier["done"])
        return done * 1000 / milliseconds if milliseconds > 0 and done >= 0 else None
    except (KeyError, ValueError, OverflowError):
        return None


def _shard(shard: Any, snapshot: Snapshot) -> dict[str, Any]:
    now, until = snapshot.record.now, shard.lease_until
    is_held = not shard.is_done and until is not None
    is_stuck = is_held and until < now
    is_throttled = shard.throttled_until is not None and shard.throttled_until > now
    if shard.is_done:
        state, text = "applied", gettext("Done")
    elif is_stuck:
        state, text = (
            "stuck",
            gettext("Stuck: lease expired %(time)s ago") % {"time": formatting.elapsed(now - until)},
        )
    elif is_throttled:
        state, text = "queued", gettext("Throttled by %(throttle)s") % {"throttle": shard.throttled_by}
    elif is_held:
        state, text = "running", gettext("In progress")
    else:
        is_active = snapshot.progress.is_active
        state, text = "queued", gettext("Waiting for a worker") if is_active else gettext("Not done")
    return {
        "index": shard.index,
        "state": state,
        "text": text,
        "is_done": shard.is_done,
        "is_stuck": is_stuck and snapshot.progress.is_active,
        "is_retry": shard.is_retry,
        "processed": formatting.number(shard.processed),
        "skipped": formatting.number(shard.skipped) if shard.skipped else "",
        "failed": formatting.number(shard.failed) if shard.failed else "",
        "cursor": formatting.value_of(shard.cursor),
        "upper": formatting.value_of(shard.upper),
        "worker": shard.worker if is_held else "",
        "last_seen": formatting.ago((now - shard.heartbeat_at).total_seconds())
        if is_held and shard.heartbeat_at
        else "",
        "lease": formatting.duration((until - now).total_seconds()) if is_held and not is_stuck else "",
    }


@page()
def detail(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """Show the progress and the actions."""
    target = find(key, db_alias)
    health = api.backend_health(key) if target.migration and target.status in ACTIVE else None
    offered = buttons.for_target(request, target)
    may_run = may(request, "run") and target.allows(VERBS["launch"])
    context = {
        "title": key,
        "tab": "detail",
        "buttons": offered,
        "has_verbs": target.record is not None or any(button.is_shown for button in offered) or may_run,
        "may_recover": may(request, "control"),
        "may_run": may_run,
        "health": health,
        "dependencies": dependencies(target),
        **header(request, target),
        **context_of(target, {}),
        **own_context(request, target),
    }
    return base.render(request, "detail", context)


def header(request: HttpRequest, target: Target) -> dict[str, Any]:
    """Return the context of the header, which all pages of one migration share."""
    allowed = target.migration.get_allowed_db_aliases() if target.migration else [target.db_alias]
    return {
        "target": target,
        "badge": formatting.badge(target.record, is_stuck=target.is_stuck),
        "question": target.question,
        "may_try": may(request, "run"),
        "may_inspect": may(request, "inspect"),
        "description": target.migration.description if target.migration else "",
        "db_aliases": [alias for alias in connections if alias in {*allowed, target.db_alias}],
    }


def dependencies(target: Target) -> list[dict[str, Any]]:
    """Return the dependencies of the migration with their statuses."""
    keys = target.migration.needed_keys if target.migration else []
    found = statuses(keys, target.db_alias) if keys else {}
    return [{"key": key, "badge": formatting.badge_of(found.get(key))} for key in keys]
