"""System checks of what code and schema migrations require, and whether it is applied where this is deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import DatabaseError, connections

from massmigration import required_by, tables
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.required_by import Need
from massmigration.states import Status

TAG = "massmigration"


def connect() -> None:
    """Called when Django's apps are ready."""
    register(check_needs, TAG)
    register(check_outstanding, TAG, deploy=True)


def check_needs(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """E010: gates for migrations in no file; E011: gates that cannot do what they say; W006: code for such ones."""
    known = {*store.by_key, *store.errors}
    labels = None if app_configs is None else {config.label for config in app_configs}
    gates = [need for need in required_by.of_gates() if labels is None or need.by_app in labels]
    code = required_by.of_imported_code() if labels is None else []
    return [
        *(_unknown_gate(need) for need in gates if need.key not in known),
        *(_atomic_gate(need) for need in gates if need.is_inline_in_transaction),
        *(_unknown_in_code(need) for need in code if need.key not in known),
    ]


def _unknown_gate(need: Need) -> CheckMessage:
    return Error(
        f"{need.by} requires mass migration {need.key!r}, which is in no file.",
        hint="Correct the name. If the file was deleted, delete the gate from the schema migration: no state changes.",
        id="massmigration.E010",
    )


def _atomic_gate(need: Need) -> CheckMessage:
    return Error(
        f"{need.by} has a gate with run_inline_up_to, but runs in a transaction, where nothing can be run.",
        hint="Set atomic = False on the schema migration, or remove run_inline_up_to.",
        id="massmigration.E011",
    )


def _unknown_in_code(need: Need) -> CheckMessage:
    return Warning(
        f"{need.by} requires mass migration {need.key!r}, which is in no file.",
        hint="Correct the name. If the file was deleted because it is applied everywhere, remove the requirement.",
        id="massmigration.W006",
    )


def check_outstanding(
    app_configs: Sequence[AppConfig] | None = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """W007: migrations that are not applied, and what requires them; W008: databases that cannot be asked."""
    return [message for db_alias in databases or connections for message in _outstanding(db_alias)]


def _outstanding(db_alias: str) -> Iterator[CheckMessage]:
    wanted = [each for each in store.all if db_alias in each.get_allowed_db_aliases()]
    try:
        records = MigrationRecord.objects.using(db_alias)
        found = dict(records.values_list("key", "status")) if tables.exist(db_alias) else {}
    except DatabaseError as error:
        text = f"Whether mass migrations are applied on database {db_alias!r} cannot be said: {str(error).strip()}"
        yield Warning(text, hint=f"Run: manage.py check --deploy --database {db_alias}", id="massmigration.W008")
        return
    needs = required_by.by_key()
    for migration in wanted:
        status = found.get(migration.key)
        if status != Status.APPLIED:
            by = f"; it is required by {', '.join(needs[migration.key])}" if migration.key in needs else ""
            yield Warning(
                f"Mass migration {migration.key!r} is {status or 'not run'} on database {db_alias!r}{by}.",
                hint=f"Run: manage.py massmigrate {migration.app_label} {migration.name} --database {db_alias}",
                id="massmigration.W007",
            )
