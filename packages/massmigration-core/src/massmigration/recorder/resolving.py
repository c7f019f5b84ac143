"""Chooses among failed objects: those that a retry does again, and those that an operator marks as resolved."""

from __future__ import annotations

from collections.abc import Collection

from django.db.models import Q, QuerySet

from massmigration.clock import DatabaseNow
from massmigration.exceptions import CannotResolve
from massmigration.models import FailedObject
from massmigration.recorder import events, records
from massmigration.states import Status
from massmigration.transactions import engine_transaction

RESOLVABLE = frozenset({Status.PAUSED, Status.FAILED, Status.CANCELLED})
MAX_IDS = 500
"""Failed objects that can be named one by one; more are a group, or all."""


def chosen(ids: Collection[int] | None, fingerprint: str | None) -> Q:
    """The condition of a choice: these ids, or this group, or all."""
    if ids is not None and len(ids) > MAX_IDS:
        raise CannotResolve(f"{len(ids)} failed objects are too many to be named; allowed: {MAX_IDS}. Choose a group.")
    by_id = Q() if ids is None else Q(pk__in=list(ids))
    return by_id if fingerprint is None else by_id & Q(fingerprint=fingerprint)


def unresolved(db_alias: str, key: str) -> QuerySet[FailedObject]:
    """The failed objects of a migration that are neither done since nor marked as resolved."""
    return FailedObject.objects.using(db_alias).filter(record_id=key, resolved_at=None)


def leave_out(db_alias: str, key: str, choice: Q | None) -> None:
    """Let the attempt that begins do only those of the choice again (None: all), in the caller's transaction."""
    mine = unresolved(db_alias, key)
    mine.filter(is_left_out=True).update(is_left_out=False)
    if choice:  # to exclude an empty condition is to exclude nothing
        mine.exclude(choice).update(is_left_out=True)


def resolve(db_alias: str, key: str, choice: Q, *, reason: str, actor: str) -> int:
    """Mark the objects of the choice as resolved, and return how many. Raise `CannotResolve` if that has no meaning."""
    record = records.require(db_alias, key, "resolve", RESOLVABLE)
    with engine_transaction(db_alias):
        found = unresolved(db_alias, key).filter(choice)
        if found.filter(was_passed=False).exists():
            raise CannotResolve(
                f"Migration {key!r} on database {db_alias!r} stopped before an object of these, and a retry begins "
                "with it. Mend the object, or have the operation pass it by."
            )
        count = found.update(resolved_at=DatabaseNow(), resolution=reason, is_left_out=False)
        if not count:
            raise CannotResolve(
                f"None of these failed objects of migration {key!r} on database {db_alias!r} is unresolved any more."
            )
        detail = f"{count} failed object{'s' if count > 1 else ''}: {reason}"
        events.add(db_alias, key, "resolve", attempt_id=record.attempt_id, actor=actor, detail=detail)
    return count
