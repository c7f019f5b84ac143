"""A reader of the `backend_params` that django-mass-migration passed to djangae's `defer` functions."""

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
"""From djangae's names to the names of this package's options."""

HONOURED = frozenset({*RENAMED, "_countdown", "_eta", "_shards", "key_ranges_getter"})

INSTEAD = {
    "_name": "It is not needed: a migration is launched once.",
    "_transactional": "It is not needed: jobs are sent after the commit.",
    "_using": "It is not needed: jobs are sent after the commit on the migration's own database.",
    "_retry_options": "Configure the retries of the queue: gcloud tasks queues update.",
    "_small_task": "It is not needed: jobs are small.",
    "_wipe_related_caches": "It is not needed: jobs contain only ids.",
    "_url": "Set the option url.",
    "_headers": "Jobs cannot have headers of your own.",
    "_delete_marker": "It is not needed: there are no markers.",
    "order_field": "Batches are ordered by primary key.",
}

_Split = Callable[[QuerySet[Any], Any, int], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OldParams:
    """The old parameters: those that still have an effect, and the names of the others."""

    options: Mapping[str, Any]
    countdown: float | None
    eta: dt.datetime | None
    shards: int | None
    key_ranges_getter: Any
    without_meaning: tuple[str, ...]

    def delay(self) -> dt.timedelta | None:
        """Return the remaining delay of the first job, or None."""
        if self.countdown:
            return dt.timedelta(seconds=self.countdown)
        if self.eta is None:
            return None
        eta = timezone.make_aware(self.eta) if timezone.is_naive(self.eta) else self.eta
        return max(eta - timezone.now(), dt.timedelta(0)) or None

    def split(self, queryset: QuerySet[Any], keyset: Any, count: int, otherwise: _Split) -> Any:
        """Split with the project's `key_ranges_getter`, or with `otherwise`, into `_shards` or `count` ranges."""
        count = self.shards or count
        if self.key_ranges_getter is None:
            return otherwise(queryset, keyset, count)
        return splitting.at_ranges(queryset, keyset, self.key_ranges_getter(queryset, count))

    def check(self) -> Iterator[CheckMessage]:
        for name in self.without_meaning:
            yield Warning(
                f"backend_params contain {name!r}, an argument of djangae, which no longer runs the jobs.",
                hint=f"Remove it. {INSTEAD.get(name, 'Operations receive only the object and the database alias.')}",
                id="massmigration_djangae.W002",
            )


def read(options: Mapping[str, Any]) -> OldParams:
    """Return the old parameters: `defer_kwargs` of simple migrations, the other one of mappers."""
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
