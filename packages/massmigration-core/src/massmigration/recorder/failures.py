"""Failures: the rows of failed objects, and the stalls of shards and records that make no progress."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import traceback as tb
from collections.abc import Callable, Collection
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce

from massmigration import text
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.dialects.times import DatabaseNow
from massmigration.documents.querysets import in_pages
from massmigration.documents.records import next_key
from massmigration.jobs import Job
from massmigration.models import FailedObject, MigrationRecord, ShardRecord
from massmigration.recorder.shards import NO_STALL, Claim, skip_locked
from massmigration.states import ACTIVE


def add(job: Job, object_pk: list[Any] | None, error: BaseException, *, is_behind_cursor: bool) -> None:
    """Record what the operation raised for an object, in the batch's transaction."""
    FailedObject.objects.using(job.db_alias).create(
        record_id=job.key,
        attempt_id=job.attempt_id,
        stage=job.stage,
        shard=job.shard,
        object_pk=object_pk,
        is_behind_cursor=is_behind_cursor,
        failed_at=DatabaseNow(),
        **_described(error),
    )


def _described(error: BaseException) -> dict[str, str]:
    return {
        "exception_class": text.class_path(error),
        "message": text.safe(error, text.MAX_TEXT),
        "traceback": text.traceback_of(error),
        "fingerprint": _fingerprint(error),
    }


def again(job: Job, failed_id: int, error: BaseException) -> None:
    """Record what the operation raised for an object that had failed before."""
    FailedObject.objects.using(job.db_alias).filter(pk=failed_id).update(
        attempt_id=job.attempt_id, failed_at=DatabaseNow(), **_described(error)
    )


def count(job: Job) -> int:
    """Return the number of unresolved failed objects of the migration."""
    return FailedObject.objects.using(job.db_alias).filter(record_id=job.key, resolved_at=None).count()


def page(job: Job, after: int, upper: int, limit: int) -> list[tuple[int, list[Any]]]:
    """Return the next ids and keys of the stage's unresolved objects that are behind a cursor."""
    found = _passed(job).filter(pk__gt=after, pk__lte=upper).order_by("pk")
    return [(pk, object_pk or []) for pk, object_pk in found.values_list("pk", "object_pk")[:limit]]


def resolve_page(job: Job, after: int, upto: int, *, but: Collection[int]) -> None:
    """Resolve the failed objects of a page. `but`: the ids that failed again."""
    found = _passed(job).filter(pk__gt=after, pk__lte=upto).exclude(pk__in=but)
    found.update(resolved_at=DatabaseNow())


def last_passed(job: Job) -> int | None:
    """Return the greatest id of the stage's unresolved objects that are behind a cursor, or None."""
    return _passed(job).order_by("-pk").values_list("pk", flat=True).first()


def _passed(job: Job) -> QuerySet[FailedObject]:
    return FailedObject.objects.using(job.db_alias).filter(
        record_id=job.key, stage=job.stage, resolved_at=None, is_behind_cursor=True, is_excluded=False
    )


def update_in_pages(failed: QuerySet[FailedObject], **values: Any) -> int:
    """Update any number of failed objects: on a document database, page by page. Return how many."""
    return sum(page.update(**values) for page in in_pages(failed))


def resolve_all(db_alias: str, key: str) -> None:
    """Resolve all failed objects of a migration, in the caller's transaction or after its commit."""
    mine = _present(db_alias, key).filter(resolved_at=None)
    _in_or_after(db_alias, lambda: update_in_pages(mine, resolved_at=DatabaseNow()))


def delete_all(db_alias: str, key: str) -> None:
    """Delete all failed objects of a migration, in the caller's transaction or after its commit."""
    mine = _present(db_alias, key)
    _in_or_after(db_alias, lambda: sum(page.delete()[0] for page in in_pages(mine)))


def _present(db_alias: str, key: str) -> QuerySet[FailedObject]:
    """Return the failed objects that exist now, not those that jobs record after the caller's transaction.

    In a document database the keys increase with time.
    """
    mine = FailedObject.objects.using(db_alias).filter(record_id=key)
    return mine.filter(pk__lt=next_key()) if dialect_of(db_alias).max_transaction_writes else mine


def _in_or_after(db_alias: str, call: Callable[[], int]) -> None:
    """Call a function in the caller's transaction, or after its commit if a transaction's writes are limited.

    If the process is killed in between, the next plan resolves the rest.
    """
    if dialect_of(db_alias).max_transaction_writes:
        transaction.on_commit(call, using=db_alias, robust=True)
    else:
        call()


def resolve_left(job: Job) -> None:
    """Resolve the failed objects of earlier attempts that a restart or a launch could not resolve.

    Called before the first plan of an attempt.
    """
    left = FailedObject.objects.using(job.db_alias).filter(record_id=job.key, resolved_at=None)
    update_in_pages(left.exclude(attempt_id=job.attempt_id), resolved_at=DatabaseNow())


def resolve(job: Job) -> None:
    """Resolve the shard's failed objects that were ahead of its cursor, after a batch has processed them."""
    FailedObject.objects.using(job.db_alias).filter(
        record_id=job.key, stage=job.stage, shard=job.shard, resolved_at=None, is_behind_cursor=False
    ).update(resolved_at=DatabaseNow())


def describe(object_pk: list[Any] | None, error: BaseException) -> str:
    """Return one line for the record's `last_error`."""
    where = "" if object_pk is None else f" (object {', '.join(map(str, object_pk))})"
    return text.described(error) + text.clean(where)


def _fingerprint(error: BaseException) -> str:
    """Return a hash of the exception's class and location. The message is left out: it often names the object."""
    frames = tb.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].name}:{frames[-1].lineno}" if frames else ""
    return hashlib.sha256(f"{type(error).__qualname__}|{place}".encode(errors="replace")).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """The number of consecutive rounds without progress, and the time of the first one."""

    tries: int = 0
    since: dt.datetime | None = None


def count_shard_stall(claim: Claim, error: str, *, counts: bool, batch_size: int) -> Stall:
    """Record an error of the batch at the shard's cursor, if the shard is ours and its row is not locked.

    `counts`: count a round without progress. `batch_size`: the size with which the next round starts.
    """
    with engine_transaction(claim.job.db_alias, durable=False):
        mine = ShardRecord.objects.using(claim.job.db_alias).filter(
            pk=claim.pk, attempt_id=claim.job.attempt_id, lease_token=claim.token
        )
        return _note_stall(mine, error, counts=counts, batch_size=batch_size)


def count_record_stall(job: Job, error: str, *, counts: bool) -> Stall:
    """Record an error outside of batches, if the job's attempt and stage are active."""
    with engine_transaction(job.db_alias, durable=False):
        mine = MigrationRecord.objects.using(job.db_alias).filter(
            key=job.key, attempt_id=job.attempt_id, stage=job.stage, status__in=ACTIVE
        )
        return _note_stall(mine, error, counts=counts)


def clear_record_stall(job: Job) -> None:
    """Clear the record's stall after a shard of the stage has made progress."""
    MigrationRecord.objects.using(job.db_alias).filter(
        key=job.key, attempt_id=job.attempt_id, stalled_since__isnull=False
    ).update(**NO_STALL)


def _note_stall(mine: Any, error: str, *, counts: bool, **fields: Any) -> Stall:
    found = skip_locked(mine).first()  # a batch that has locked the row makes progress or records its own error
    if found is None:
        return Stall()
    mine.update(
        stalled_tries=F("stalled_tries") + int(counts),
        stalled_since=Coalesce("stalled_since", DatabaseNow()),
        stalled_error=text.clean(error, text.MAX_LINE),
        **fields,
    )
    return Stall(tries=found.stalled_tries + int(counts), since=found.stalled_since)
