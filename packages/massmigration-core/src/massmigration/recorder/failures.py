"""Writes failed objects, and resolves those that a batch has passed."""

from __future__ import annotations

import hashlib
import traceback as tb
from collections.abc import Collection
from typing import Any

from django.db.models import QuerySet

from massmigration.clock import DatabaseNow
from massmigration.jobs import Job
from massmigration.models import FailedObject

MAX_TEXT = 100_000
"""Characters kept of a message or traceback."""


def add(job: Job, object_pk: list[Any] | None, error: BaseException, *, was_passed: bool) -> None:
    """Record what the operation raised for an object, in the batch's transaction."""
    FailedObject.objects.using(job.db_alias).create(
        record_id=job.key,
        attempt_id=job.attempt_id,
        stage=job.stage,
        shard=job.shard,
        object_pk=object_pk,
        was_passed=was_passed,
        failed_at=DatabaseNow(),
        **_described(error),
    )


def _described(error: BaseException) -> dict[str, str]:
    return {
        "exception_class": f"{type(error).__module__}.{type(error).__qualname__}"[:255],
        "message": _clean(str(error)),
        "traceback": _clean("".join(tb.format_exception(error))),
        "fingerprint": _fingerprint(error),
    }


def again(job: Job, failed_id: int, error: BaseException) -> None:
    """Record what the operation raised for an object that had failed before."""
    FailedObject.objects.using(job.db_alias).filter(pk=failed_id).update(
        attempt_id=job.attempt_id, failed_at=DatabaseNow(), **_described(error)
    )


def count(job: Job) -> int:
    """How many failed objects of the migration are unresolved."""
    return FailedObject.objects.using(job.db_alias).filter(record_id=job.key, resolved_at=None).count()


def page(job: Job, after: int, upper: int, limit: int) -> list[tuple[int, list[Any]]]:
    """The next ids and keys of the stage's objects that cursors have passed unresolved."""
    found = _passed(job).filter(pk__gt=after, pk__lte=upper).order_by("pk")
    return [(pk, object_pk or []) for pk, object_pk in found.values_list("pk", "object_pk")[:limit]]


def resolve_page(job: Job, after: int, upto: int, *, but: Collection[int]) -> None:
    """Resolve those of the page that did not fail again."""
    found = _passed(job).filter(pk__gt=after, pk__lte=upto).exclude(pk__in=but)
    found.update(resolved_at=DatabaseNow())


def last_passed(job: Job) -> int | None:
    """The greatest id of the stage's objects that cursors have passed unresolved."""
    return _passed(job).order_by("-pk").values_list("pk", flat=True).first()


def _passed(job: Job) -> QuerySet[FailedObject]:
    return FailedObject.objects.using(job.db_alias).filter(
        record_id=job.key, stage=job.stage, resolved_at=None, was_passed=True, is_left_out=False
    )


def resolve(job: Job) -> None:
    """Resolve the shard's objects that its cursor stood before, now that a batch has passed them."""
    FailedObject.objects.using(job.db_alias).filter(
        record_id=job.key, stage=job.stage, shard=job.shard, resolved_at=None, was_passed=False
    ).update(resolved_at=DatabaseNow())


def describe(object_pk: list[Any] | None, error: BaseException) -> str:
    """One line for the record's `last_error`."""
    where = "" if object_pk is None else f" (object {', '.join(map(str, object_pk))})"
    return _clean(f"{type(error).__name__}: {error}{where}")


def _clean(text: str) -> str:
    # PostgreSQL refuses NUL, and UTF-8 lone surrogates.
    return text[:MAX_TEXT].replace("\x00", "\\x00").encode(errors="backslashreplace").decode()


def _fingerprint(error: BaseException) -> str:
    """Where it was raised and what: not the message, which often names the object."""
    frames = tb.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].name}:{frames[-1].lineno}" if frames else ""
    return hashlib.sha256(f"{type(error).__qualname__}|{place}".encode()).hexdigest()
