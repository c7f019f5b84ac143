"""Migrates one object on the spot, exactly once, while the run is under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections
from django.db.models import Model

from massmigration import record_cache
from massmigration.definitions.stages import MappedStage
from massmigration.exceptions import CannotEnsure
from massmigration.executor.changes import Writes
from massmigration.executor.object_work import ObjectWork
from massmigration.executor.work import can_shrink
from massmigration.keyset import Keyset
from massmigration.loader import store
from massmigration.requirement import key_of
from massmigration.transactions import engine_transaction


def ensure_migrated(obj: Model, migration_identifier: str | Sequence[str], db_alias: str | None = None) -> bool:
    """Do a mapper's operation to one object here and now, unless it is done. Return whether that was needed.

    The object is read again from the database, locked, and only done if the migration's queryset still has it; when it
    is done, the queryset must not have it any more, so that its shard passes over it. Otherwise, and for migrations
    whose workers could not be kept from doing it at the same time, raise `CannotEnsure` and change nothing.
    `db_alias`: default, the database that the object is from. Once the migration is applied, nothing is asked.
    """
    key = key_of(migration_identifier)
    db_alias = db_alias or obj._state.db or "default"
    if record_cache.is_known(key, db_alias):
        return False
    if record_cache.is_applied(key, db_alias):  # perhaps only since the object was loaded
        obj.refresh_from_db(using=db_alias)
        return False
    store.get(key).check_db_alias(db_alias)
    stage = _stage(key)
    queryset = stage.rows(db_alias)
    if not isinstance(obj, queryset.model):
        raise CannotEnsure(
            f"Migration {key!r} is about {queryset.model._meta.label}, not about {type(obj)._meta.label} objects."
        )
    if not can_shrink(stage, queryset):
        raise CannotEnsure(
            f"Migration {key!r} does not tell what is done: let get_queryset() leave it out, and catch_up be True."
        )
    _check_isolation(key, db_alias)
    needed = _do(obj, stage, Keyset.of(queryset.model), db_alias)
    obj.refresh_from_db(using=db_alias)
    return needed


async def aensure_migrated(obj: Model, migration_identifier: str | Sequence[str], db_alias: str | None = None) -> bool:
    """The same, to be awaited."""
    return await sync_to_async(ensure_migrated)(obj, migration_identifier, db_alias)


def _stage(key: str) -> MappedStage:
    stages: Sequence[Any] = store.get(key).get_stages()
    stage = stages[0] if len(stages) == 1 else None
    if not isinstance(stage, MappedStage) or stage.operation is None:
        raise CannotEnsure(f"Migration {key!r} has no operation on single objects.")
    if not stage.atomic or not stage.lock_rows:
        raise CannotEnsure(
            f"Migration {key!r} has {'lock_rows' if stage.atomic else 'atomic'} = False, so its workers could do the "
            "object at the same time."
        )
    return stage


def _check_isolation(key: str, db_alias: str) -> None:
    connection = connections[db_alias]
    is_committed = getattr(connection, "isolation_level", None) == "read committed"
    if connection.vendor == "mysql" and connection.in_atomic_block and not is_committed:
        raise CannotEnsure(
            f"The transaction on database {db_alias!r} may not see what workers of migration {key!r} have committed "
            "since it began. Call it outside of transaction.atomic(), or set isolation_level to 'read committed'."
        )


def _do(obj: Model, stage: MappedStage, keyset: Keyset, db_alias: str) -> bool:
    work = ObjectWork(stage, db_alias)
    with engine_transaction(db_alias, durable=False):
        portion = work.portion_of([keyset.key_of(obj)], may_lock=True)
        if not portion.count:
            return False
        writes = Writes()
        work.operate(portion, writes)
        writes.flush(db_alias)
        if work.still_has([portion]):
            raise CannotEnsure(
                f"The queryset of migration {stage.name!r} still has object {obj.pk!r} after its operation, so a "
                "worker would do it again; nothing was changed. Let get_queryset() leave out what is done."
            )
    return True
