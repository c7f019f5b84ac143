"""What of a migration changes while one looks: for the page as it is drawn, and as JSON for the page to poll."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.translation import gettext

from massmigration import stalling
from massmigration.progress import Look
from massmigration.states import ACTIVE, FINAL, Status
from massmigration.views import words
from massmigration.views.access import page
from massmigration.views.targets import Target, find

FAST, SLOW = 1000, 5000
"""Milliseconds between two polls."""

MAX_SHARDS = 40


@page(is_json=True)
def status(request: HttpRequest, key: str, db_alias: str) -> HttpResponse:
    """`?at=...&done=...`: an earlier sample of this answer's, which the rate now is measured from."""
    target = find(key, db_alias)
    context = context_of(target, request.GET)
    parts = {name: render_to_string(f"massmigration/live/{name}.html", context, request) for name in PARTS}
    return JsonResponse(
        {
            "status": target.status,
            "seen": target.seen,
            "poll": _interval(target.status),
            "progress": context["progress"],
            "sample": context["sample"],
            "verbs": [verb.name for verb in target.verbs(request) if target.suits(verb)],
            "is_stalled": context["is_stalled"],
            "parts": parts,
            "rows": context.get("rows", ""),
            "percent": context.get("percent", ""),
            "said": f"{context['badge'].text} {context.get('percent', '')}".strip(),
        }
    )


PARTS = ("badge", "figures", "notices", "shards")


def context_of(target: Target, earlier: Any) -> dict[str, Any]:
    """What the parts show."""
    look = target.look
    is_stalled = target.is_stalled
    badge = words.badge(target.record, is_stalled=is_stalled)
    context: dict[str, Any] = {"target": target, "badge": badge, "progress": None}
    if look is None:
        return {**context, "sample": None, "poll": 0, "is_stalled": False}
    reading = look.reading
    sample = _sample(look, target.beat)
    recent = _recent(sample, earlier) if reading.status is Status.RUNNING else None
    shards = [_shard(shard, look) for shard in look.shards]
    return {
        **context,
        "reading": reading,
        "record": look.record,
        "sample": sample,
        "poll": _interval(reading.status),
        "progress": None if reading.share is None else int(reading.share * 1000),
        "percent": words.percent(reading),
        "rows": words.standing(reading),
        "skipped": words.number(sum(shard.skipped for shard in look.shards)),
        "failed": words.failed(reading.failed) if reading.failed else "",
        "left": words.left(reading, recent),
        "rate_now": words.rate(recent),
        "rate": words.rate(reading.rate),
        "elapsed": words.elapsed(reading.elapsed),
        "is_stalled": is_stalled,
        "stalled_shards": ", ".join(str(shard["index"]) for shard in shards if shard["is_stalled"]),
        "waited": words.duration(stalling.waited(look.record, target.beat).total_seconds()),
        "has_code_changed": bool(look.record.running_hash and look.record.running_hash != look.record.source_hash),
        "shards": sorted(shards, key=lambda shard: (shard["is_done"], shard["index"]))[:MAX_SHARDS],
        "shards_done": words.number(sum(shard["is_done"] for shard in shards)),
        "shards_all": words.number(len(shards)),
        "more_shards": words.number(len(shards) - MAX_SHARDS) if len(shards) > MAX_SHARDS else "",
    }


def _interval(status: Status | None) -> int:
    """0: it is over, or was never launched, and need not be asked about again."""
    if status is None or status in FINAL:
        return 0
    return FAST if status in ACTIVE else SLOW


def _sample(look: Look, beat: dt.datetime | None) -> dict[str, int]:
    """Objects done at the last checkpoint, by the database's clock."""
    at = beat or look.record.now
    return {"at": int(at.timestamp() * 1000), "done": look.reading.done, "stage": look.reading.stage}


def _recent(sample: dict[str, int], earlier: Any) -> float | None:
    """From checkpoint to checkpoint: between the polls alone, a batch more or less would count too much."""
    try:
        milliseconds, done = sample["at"] - int(earlier["at"]), sample["done"] - int(earlier["done"])
    except (KeyError, ValueError):
        return None
    return done * 1000 / milliseconds if milliseconds > 0 and done >= 0 else None


def _shard(shard: Any, look: Look) -> dict[str, Any]:
    now, until = look.record.now, shard.lease_until
    is_held = not shard.is_done and until is not None
    is_stalled = is_held and until < now
    if shard.is_done:
        state, text = "applied", gettext("Done")
    elif is_stalled:
        state, text = "stalled", gettext("Stalled: lease overdue for %(time)s") % {"time": words.elapsed(now - until)}
    elif is_held:
        state, text = "running", gettext("Held by a worker")
    else:
        state, text = "queued", gettext("Waits for a worker")
    return {
        "index": shard.index,
        "state": state,
        "text": text,
        "is_done": shard.is_done,
        "is_stalled": is_stalled and look.reading.is_active,
        "is_redo": shard.is_redo,
        "processed": words.number(shard.processed),
        "skipped": words.number(shard.skipped) if shard.skipped else "",
        "failed": words.number(shard.failed) if shard.failed else "",
        "cursor": words.value_of(shard.cursor),
        "upper": words.value_of(shard.upper),
        "worker": shard.worker if is_held else "",
        "heard": words.ago((now - shard.heartbeat_at).total_seconds()) if is_held and shard.heartbeat_at else "",
        "lease": words.duration((until - now).total_seconds()) if is_held and not is_stalled else "",
    }
