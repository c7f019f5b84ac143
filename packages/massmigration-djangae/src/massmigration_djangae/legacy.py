"""Reads what django-mass-migration passed on to djangae's `defer` and `defer_iteration_with_finalize`."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.core.checks import CheckMessage, Warning
from django.db.models import QuerySet
from django.utils import timezone

from massmigration_djangae import splitting

PARAMS = frozenset({"defer_kwargs", "defer_iteration_with_finalize_kwargs", "key_ranges_getter"})

RENAMED = {"_queue": "queue", "_service": "service", "_version": "version", "_instance": "instance"}
"""The names of our options."""

HONOURED = frozenset({*RENAMED, "_countdown", "_eta", "_shards", "key_ranges_getter"})

INSTEAD = {
    "_name": "Nothing is needed: a migration is launched once.",
    "_transactional": "Nothing is needed: jobs are sent after the commit.",
    "_using": "Nothing is needed: jobs are sent after the commit on the migration's own database.",
    "_retry_options": "Set the queue's own retries: gcloud tasks queues update.",
    "_small_task": "Nothing is needed: jobs are small.",
    "_wipe_related_caches": "Nothing is needed: jobs hold ids only.",
    "_url": "Set the option url.",
    "_headers": "Jobs have no headers of their own.",
    "_delete_marker": "Nothing is needed: there are no markers.",
    "order_field": "Batches go by primary key.",
}

_Split = Callable[[QuerySet[Any], Any, int], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OldParams:
    """What of it still has a meaning, and what has none."""

    options: Mapping[str, Any]
    countdown: float | None
    eta: dt.datetime | None
    shards: int | None
    key_ranges_getter: Any
    without_meaning: tuple[str, ...]

    def delay(self) -> dt.timedelta | None:
        """How long the first job is to wait, as seen from now."""
        if self.countdown:
            return dt.timedelta(seconds=self.countdown)
        if self.eta is None:
            return None
        eta = timezone.make_aware(self.eta) if timezone.is_naive(self.eta) else self.eta
        return max(eta - timezone.now(), dt.timedelta(0)) or None

    def split(self, queryset: QuerySet[Any], keyset: Any, count: int, otherwise: _Split) -> Any:
        """Cut where the project's own function says, else as ever, but into the given number of shards."""
        count = self.shards or count
        if self.key_ranges_getter is None:
            return otherwise(queryset, keyset, count)
        return splitting.at_ranges(queryset, keyset, self.key_ranges_getter(queryset, count))

    def check(self) -> Iterator[CheckMessage]:
        for name in self.without_meaning:
            yield Warning(
                f"backend_params pass {name!r} on to djangae, which no longer carries the jobs. It has no effect.",
                hint=f"Remove it. {INSTEAD.get(name, 'Operations are given the object and the database alone.')}",
                id="massmigration_djangae.W002",
            )


def read(options: Mapping[str, Any]) -> OldParams:
    """`defer_kwargs` of simple migrations, `defer_iteration_with_finalize_kwargs` of mappers."""
    old: dict[str, Any] = {name: options[name] for name in ("key_ranges_getter",) if name in options}
    for name in ("defer_kwargs", "defer_iteration_with_finalize_kwargs"):
        old |= options.get(name) or {}
    return OldParams(
        options={new: old[name] for name, new in RENAMED.items() if old.get(name)},
        countdown=old.get("_countdown"),
        eta=old.get("_eta"),
        shards=old.get("_shards"),
        key_ranges_getter=old.get("key_ranges_getter"),
        without_meaning=tuple(sorted(old.keys() - HONOURED)),
    )
