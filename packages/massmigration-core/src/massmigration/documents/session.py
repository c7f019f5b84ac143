"""What a transaction has read and written: a database of documents shows it only what was there before it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from django.db import connections
from django.db.models import Model, QuerySet

AT_ONCE = 100
"""Keys that are asked for at a time."""


@dataclasses.dataclass
class Session:
    """One transaction's own writes, and the groups of rows that it has read."""

    transaction: Any
    written: dict[tuple[type[Model], Any], Model | None] = dataclasses.field(default_factory=dict)
    """By model and key; None: deleted."""

    groups: dict[tuple[type[Model], Any], set[Any]] = dataclasses.field(default_factory=dict)
    """The keys of the rows of a group, by model and the group's value."""


def current(db_alias: str) -> Session | None:
    """That of the transaction that is open on this thread's connection; None outside of one."""
    wrapper: Any = connections[db_alias]
    connection = wrapper.connection
    transaction = getattr(connection, "_txn", None)
    if transaction is None:
        return None
    session: Session | None = getattr(connection, "massmigration_session", None)
    if session is None or session.transaction is not transaction:
        session = connection.massmigration_session = Session(transaction)
    return session


def by_keys(model: type[Model], db_alias: str, keys: list[Any]) -> list[Model]:
    """The rows with these keys, as this transaction has left them."""
    session = current(db_alias)
    written = session.written if session else {}
    unknown = [key for key in keys if (model, key) not in written]
    own = [written[model, key] for key in keys if (model, key) in written]
    rows = [copy.copy(row) for row in own if row is not None]
    for start in range(0, len(unknown), AT_ONCE):
        page = unknown[start : start + AT_ONCE]
        rows += _native(model, db_alias).filter(**({"pk": page[0]} if len(page) == 1 else {"pk__in": page}))
    return rows


def by_group(model: type[Model], db_alias: str, attname: str, value: Any) -> list[Model]:
    """The rows of a group, as this transaction has left them."""
    session = current(db_alias)
    if session is not None and (model, value) in session.groups:
        return by_keys(model, db_alias, sorted(session.groups[model, value]))
    rows = list(_native(model, db_alias).filter(**{attname: value}))
    if session is not None:
        session.groups[model, value] = {row.pk for row in rows}
    return rows


def everything(model: type[Model], db_alias: str) -> list[Model]:
    """Every row that was there before this transaction wrote any."""
    return list(_native(model, db_alias))


def prepare(row: Any, db_alias: str) -> None:
    """Before a row is written: read its group, where the group is asked for after that in the same transaction."""
    session = current(db_alias)
    if session is not None and row.is_asked_for_later and (type(row), row.group_value) not in session.groups:
        by_group(type(row), db_alias, row.group, row.group_value)


def note(row: Model, db_alias: str, group: Any, *, is_deleted: bool = False) -> None:
    """Remember what is about to be written."""
    session = current(db_alias)
    if session is None:
        return
    model = type(row)
    session.written[model, row.pk] = None if is_deleted else copy.copy(row)
    if (model, group) in session.groups:
        session.groups[model, group].add(row.pk)


def _native(model: type[Model], db_alias: str) -> QuerySet[Any]:
    return QuerySet(model=model, using=db_alias).order_by()
