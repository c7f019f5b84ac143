"""Shows what a dry run found."""

from __future__ import annotations

from typing import Any

from django.utils.text import Truncator

from massmigration.dryrun import DryRun, Tried
from massmigration.views import words

MAX_VALUE = 200
"""Characters shown of a value."""


def told(found: DryRun) -> dict[str, Any]:
    """For the template."""
    failed = sum(bool(tried.error) for tried in found.objects)
    is_mapped = any(tried.object_pk for tried in found.objects)
    return {
        "objects": [_object(tried) for tried in found.objects],
        "count": len(found.objects),
        "failed": words.failed(failed) if failed else "",
        "mails": found.mails,
        "sends": found.sends,
        "rate": words.rate(found.rate) if is_mapped else "",
        "estimate": words.elapsed(found.estimate) if is_mapped else "",
        "total": words.number(found.total),
        "duration": words.elapsed(found.duration),
    }


def _object(tried: Tried) -> dict[str, Any]:
    changes = [
        {"field": name, "before": _value(before), "after": _value(after)}
        for name, (before, after) in tried.changes.items()
    ]
    pk = words.value_of(tried.object_pk)
    return {"pk": pk, "changes": changes, "error": tried.error, "is_gone": tried.is_gone}


def _value(value: Any) -> str:
    return Truncator(repr(value)).chars(MAX_VALUE)
