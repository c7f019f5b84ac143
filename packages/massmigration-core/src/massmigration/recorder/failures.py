"""Writes failed objects, and resolves those that a batch has passed."""

from __future__ import annotations

import hashlib
import traceback as tb
from typing import Any

from massmigration.clock import DatabaseNow
from massmigration.jobs import Job
from massmigration.models import FailedObject

MAX_TEXT = 100_000
"""Characters kept of a message or traceback."""


def add(job: Job, object_pk: list[Any] | None, error: BaseException, *, was_passed: bool) -> None:
    """Record what the operation raised for an object, in the batch's transaction."""
    text = "".join(tb.format_exception(error))
    FailedObject.objects.using(job.db_alias).create(
        record_id=job.key,
        attempt_id=job.attempt_id,
        stage=job.stage,
        shard=job.shard,
        object_pk=object_pk,
        was_passed=was_passed,
        exception_class=f"{type(error).__module__}.{type(error).__qualname__}"[:255],
        message=_clean(str(error)),
        traceback=_clean(text),
        fingerprint=_fingerprint(error),
        failed_at=DatabaseNow(),
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
