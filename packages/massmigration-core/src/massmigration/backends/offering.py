"""Asks backends how they are and what they let operators do, and has them do it."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

from massmigration.backends import handler
from massmigration.backends.base import AdminAction, BackendHealth, BaseBackend
from massmigration.exceptions import BackendActionFailed, BadBackend, MassMigrationError
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.recorder import events

logger = logging.getLogger(__name__)


def health(key: str) -> BackendHealth:
    """How the backend of a migration is. What keeps it from telling is its `problem`."""
    try:
        backend = handler.backend_of(store.get(key))
        return backend.health() if isinstance(backend, BaseBackend) else BackendHealth()
    except MassMigrationError as error:
        return BackendHealth(problem=str(error))
    except Exception as error:
        logger.exception("The backend of migration %s could not be asked how it is.", key)
        return BackendHealth(problem=f"The queue does not answer. {type(error).__name__}: {error}")


def of_records(records: Sequence[MigrationRecord]) -> dict[str, AdminAction]:
    """What the backends of these records offer, by name.

    What several backends offer in the same words is one action; in other words, each has a name of its own.
    """
    offered: dict[str, AdminAction] = {}
    for record in records:
        offered |= _qualified(record)
    wordings = Counter(name for name, _ in {(action.name, _words(action)) for action in offered.values()})
    found = {}
    for qualified, action in offered.items():
        if wordings[action.name] == 1:
            found[action.name] = action
        else:
            label = f"{action.label} ({qualified.partition('__')[2]})"
            found[qualified] = dataclasses.replace(action, name=qualified, label=label)
    return found


def perform(name: str, keys: Sequence[str], db_alias: str, *, actor: str) -> list[str]:
    """Do it to these migrations, backend by backend. It is an event of each, whether it fails or not."""
    records = list(MigrationRecord.objects.using(db_alias).filter(key__in=keys))
    groups: list[tuple[AdminAction, list[MigrationRecord]]] = []
    for record in records:
        action = {**_qualified(record), **_of_record(record)}.get(name)
        if action is None:
            raise BackendActionFailed(
                f"The backend of migration {record.key!r} has no action {name!r}. Nothing was done."
            )
        mine = next((group for known, group in groups if known == action), None)
        if mine is None:
            groups.append((action, [record]))
        else:
            mine.append(record)
    return [_perform(action, mine, db_alias, actor) for action, mine in groups]


def _perform(action: AdminAction, records: Sequence[MigrationRecord], db_alias: str, actor: str) -> str:
    keys = ", ".join(record.key for record in records)
    try:
        message = action.call(records, actor)
    except Exception as error:
        message = str(error) if isinstance(error, MassMigrationError) else f"{type(error).__name__}: {error}"
        logger.exception("The action %s of a backend failed for %s.", action.name, keys)
        _tell(action, records, db_alias, actor, f"failed: {message}")
        raise BackendActionFailed(f"{action.label!r} failed for {keys}: {message}") from error
    _tell(action, records, db_alias, actor, message)
    return message


def _tell(action: AdminAction, records: Sequence[MigrationRecord], db_alias: str, actor: str, detail: str) -> None:
    for record in records:
        events.add(db_alias, record.key, action.name, attempt_id=record.attempt_id, actor=actor, detail=detail)


def _of_record(record: MigrationRecord) -> dict[str, AdminAction]:
    return {action.name: action for action in _qualified(record).values()}


def _qualified(record: MigrationRecord) -> dict[str, AdminAction]:
    """By names that no other backend has."""
    try:
        backend = handler.backend_of_job(record.key, record.backend)
    except BadBackend:  # no longer installed; everything else of the record can be shown
        return {}
    return {f"{action.name}__{type(backend).__name__}": action for action in backend.admin_actions}


def _words(action: AdminAction) -> tuple[object, ...]:
    return action.label, action.description, action.asks, action.permission
