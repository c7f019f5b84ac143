"""Collects what backends let operators do, and has them do it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from massmigration.backends import handler
from massmigration.backends.base import AdminAction
from massmigration.exceptions import BackendActionFailed, BadBackend, MassMigrationError
from massmigration.models import MigrationRecord
from massmigration.recorder import events

logger = logging.getLogger(__name__)


def of_records(records: Sequence[MigrationRecord]) -> dict[str, AdminAction]:
    """What the backends of these records offer, by name."""
    return {name: action for record in records for name, action in _of_record(record).items()}


def perform(name: str, keys: Sequence[str], db_alias: str, *, actor: str) -> list[str]:
    """Do it to these migrations, backend by backend. It is an event of each, whether it fails or not."""
    records = list(MigrationRecord.objects.using(db_alias).filter(key__in=keys))
    groups: list[tuple[AdminAction, list[MigrationRecord]]] = []
    for record in records:
        action = _of_record(record).get(name)
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
    try:
        backend = handler.backend_of_job(record.key, record.backend)
    except BadBackend:  # no longer installed; everything else of the record can be shown
        return {}
    return {action.name: action for action in backend.admin_actions}
