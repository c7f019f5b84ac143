"""The health and the admin actions of backends."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

from massmigration import text
from massmigration.backends import handler
from massmigration.backends.base import AdminAction, BackendHealth, BaseBackend
from massmigration.exceptions import BackendActionFailed, BadBackend, MassMigrationError
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.recorder import events

logger = logging.getLogger(__name__)


def health(key: str) -> BackendHealth:
    """Return the health of a migration's backend. If it cannot be read, the reason is its `problem`."""
    try:
        backend = handler.backend_of(store.get(key))
        return backend.health() if isinstance(backend, BaseBackend) else BackendHealth()
    except MassMigrationError as error:
        return BackendHealth(problem=str(error))
    except Exception as error:
        logger.error("Could not read the health of migration %s's backend.", key, exc_info=text.logged(error))
        return BackendHealth(problem=f"The queue does not respond. {text.described(error)}")


def for_records(records: Sequence[MigrationRecord]) -> dict[str, AdminAction]:
    """Return the actions of these records' backends, by name.

    Actions of several backends that have the same name and texts are one action. If their texts differ, each gets a
    name of its own.
    """
    actions: dict[str, AdminAction] = {}
    for record in records:
        actions |= _qualified(record)
    wordings = Counter(name for name, _ in {(action.name, _texts(action)) for action in actions.values()})
    found = {}
    for qualified, action in actions.items():
        if wordings[action.name] == 1:
            found[action.name] = action
        else:
            label = f"{action.label} ({qualified.partition('__')[2]})"
            found[qualified] = dataclasses.replace(action, name=qualified, label=label)
    return found


def perform(name: str, keys: Sequence[str], db_alias: str, *, actor: str) -> list[str]:
    """Perform an action on these migrations, once for each backend. Return the results.

    Whether it fails or not, it is recorded as an event of each migration.
    """
    records = list(MigrationRecord.objects.using(db_alias).filter(key__in=keys))
    groups: list[tuple[AdminAction, list[MigrationRecord]]] = []
    for record in records:
        action = {**_qualified(record), **_of_record(record)}.get(name)
        if action is None:
            raise BackendActionFailed(
                f"The backend of migration {record.key!r} has no action {name!r}. Nothing was changed."
            )
        group = next((group for known, group in groups if known == action), None)
        if group is None:
            groups.append((action, [record]))
        else:
            group.append(record)
    return [_perform(action, group, db_alias, actor) for action, group in groups]


def _perform(action: AdminAction, records: Sequence[MigrationRecord], db_alias: str, actor: str) -> str:
    keys = ", ".join(record.key for record in records)
    try:
        message = action.call(records, actor)
    except Exception as error:
        message = text.told(error)
        logger.error("The backend action %s failed for %s.", action.name, keys, exc_info=text.logged(error))
        _record(action, records, db_alias, actor, f"failed: {message}")
        raise BackendActionFailed(f"{action.label!r} failed for {keys}: {message}") from error
    _record(action, records, db_alias, actor, message)
    return message


def _record(action: AdminAction, records: Sequence[MigrationRecord], db_alias: str, actor: str, detail: str) -> None:
    for record in records:
        events.add(db_alias, record.key, action.name, attempt_id=record.attempt_id, actor=actor, detail=detail)


def _of_record(record: MigrationRecord) -> dict[str, AdminAction]:
    return {action.name: action for action in _qualified(record).values()}


def _qualified(record: MigrationRecord) -> dict[str, AdminAction]:
    """Return the actions of a record's backend, by names that are unique across backends."""
    try:
        backend = handler.backend_of_job(record.key, record.backend)
    except BadBackend:  # no longer installed; show the record without actions
        return {}
    return {f"{action.name}__{type(backend).__name__}": action for action in backend.admin_actions}


def _texts(action: AdminAction) -> tuple[object, ...]:
    return action.label, action.description, action.asks, action.permission
