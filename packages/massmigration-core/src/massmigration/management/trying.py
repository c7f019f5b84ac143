"""Reports a dry run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from massmigration.dryrun import DryRun, Tried
from massmigration.management.bar import duration, number

MAX_VALUE = 80
"""Characters shown of a value."""


def report(key: str, db_alias: str, found: DryRun) -> Iterator[str]:
    """The lines: one for each object, then the sums."""
    count = len(found.objects)
    objects = "1 object" if count == 1 else f"{number(count)} objects"
    yield f"Dry run of {key} on database {db_alias!r} with {objects}. Nothing of it was kept."
    for tried in found.objects:
        yield f"  {', '.join(map(str, tried.object_pk)) or 'once'}: {_outcome(tried)}"
    failed = sum(bool(tried.error) for tried in found.objects)
    if failed:
        yield f"{number(failed)} of {objects} failed."
    if found.mails:
        yield f"{number(found.mails)} {'mail was' if found.mails == 1 else 'mails were'} held back."
    for line in found.sends:
        yield f"Held back: {line}"
    if found.rate and found.estimate is not None and any(tried.object_pk for tried in found.objects):
        about = "about " if found.is_total_estimated else ""
        yield (
            f"One by one, {number(found.rate)} objects a second: {about}{number(found.total)} rows would take "
            f"{duration(found.estimate.total_seconds())}. A run takes them in batches and is faster."
        )


def _outcome(tried: Tried) -> str:
    if tried.error:
        return tried.error
    if tried.is_gone:
        return "deleted"
    if not tried.object_pk:
        return "done"
    changes = [f"{name} {_value(before)} -> {_value(after)}" for name, (before, after) in tried.changes.items()]
    return ", ".join(changes) or "unchanged"


def _value(value: Any) -> str:
    return textwrap.shorten(repr(value), MAX_VALUE, placeholder="...")
