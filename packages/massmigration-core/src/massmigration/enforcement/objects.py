"""Migration of a single object on demand, exactly once, while its migration is running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import Model

from massmigration import record_cache
from massmigration.definitions.stages import MappedStage
from massmigration.dialects import dialect_of, engine_transaction
from massmigration.enforcement.requirements import key_of
from massmigration.exceptions import CannotEnsure
from massmigration.executor.objects import PendingUpdates
from massmigration.executor.processors import ObjectProcessor, can_shrink
from massmigration.loader import store
from massmigration.paging.keyset import Keyset
from massmigration.paging.querysets import all_rows


def ensure_migrated(obj: Model, migration_identifier: str | Sequence[str], db_alias: str | None = None) -> bool:
    """Process one object of a mapper migration now, unless that has happened. Return whether it was needed.

    The object is read from the database again and locked. It is processed only if the migration's queryset contains it,
    and must have left the queryset afterwards, so that no worker processes it again. Raise `CannotEnsure` and change
    nothing if it has not left, or if a worker could process it at the same time. Once the migration is applied, this
    makes no query.

    `db_alias`: the database of the object (default: the one that it was loaded from).
    """
    key = key_of(migration_identifier)
    db_alias = db_alias or obj._state.db or "default"
    if record_cache.is_known(key, db_alias):
        return False
    if record_cache.is_applied(key, db_alias):  # perhaps only since the object was loaded
        _refresh(obj, db_alias)
        return False
    store.get(key).check_db_alias(db_alias)
    stage = _stage(key)
    queryset = stage.rows(db_alias)
    if not isinstance(obj, queryset.model):
        raise CannotEnsure(
            f"Migration {key!r} migrates {queryset.model._meta.label} objects; the object is of model "
            f"{type(obj)._meta.label}."
        )
    if not can_shrink(stage, queryset):
        raise CannotEnsure(
            f"Migration {key!r} does not show which objects are done. get_queryset() must filter out processed "
            "objects, and catch_up must be True."
        )
    _check_isolation(key, db_alias)
    needed = _process(obj, stage, Keyset.of(queryset.model), db_alias)
    _refresh(obj, db_alias)
    return needed


def _refresh(obj: Model, db_alias: str) -> None:
    """Read the object again, even if its base manager filters it out."""
    if obj._meta.base_manager_name is None:
        obj.refresh_from_db(using=db_alias)
        return
    loaded: list[Any] = [field for field in obj._meta.concrete_fields if field.attname in obj.__dict__]
    found = all_rows(type(obj), db_alias).only(*(field.name for field in loaded)).get(pk=obj.pk)
    for field in loaded:
        if field.is_relation and field.is_cached(obj):
            field.delete_cached_value(obj)
        setattr(obj, field.attname, getattr(found, field.attname))
    obj._state.db = db_alias


async def aensure_migrated(obj: Model, migration_identifier: str | Sequence[str], db_alias: str | None = None) -> bool:
    """Do the same as `ensure_migrated`, asynchronously."""
    return await sync_to_async(ensure_migrated)(obj, migration_identifier, db_alias)


def _stage(key: str) -> MappedStage:
    stages: Sequence[Any] = store.get(key).get_stages()
    stage = stages[0] if len(stages) == 1 else None
    if not isinstance(stage, MappedStage) or stage.operation is None:
        raise CannotEnsure(f"Migration {key!r} does not process single objects; it must be one stage with operation().")
    if not stage.atomic or not stage.lock_rows:
        raise CannotEnsure(
            f"Migration {key!r} has {'lock_rows' if stage.atomic else 'atomic'} = False, so a worker could process the "
            "object at the same time."
        )
    return stage


def _check_isolation(key: str, db_alias: str) -> None:
    if dialect_of(db_alias).has_open_snapshot():
        raise CannotEnsure(
            f"The transaction on database {db_alias!r} may not see what workers of migration {key!r} have committed "
            "since it began. Call ensure_migrated() outside transaction.atomic(), or set isolation_level to "
            "'read committed'."
        )


def _process(obj: Model, stage: MappedStage, keyset: Keyset, db_alias: str) -> bool:
    work = ObjectProcessor(stage, db_alias)
    with engine_transaction(db_alias, durable=False):
        batch = work.batch_of_keys([keyset.key_of(obj)], may_lock=True)
        if not batch.count:
            return False
        updates = PendingUpdates()
        work.process(batch, updates)
        updates.write(db_alias)
        if work.still_matches([batch]):
            raise CannotEnsure(
                f"The queryset of migration {stage.name!r} still contains object {obj.pk!r} after the operation, so a "
                "worker would process it again. Nothing was changed. get_queryset() must filter out processed objects."
            )
    return True
