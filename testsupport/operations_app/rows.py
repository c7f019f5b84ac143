"""Rows for the operations, and functions that run the operations."""

from __future__ import annotations

from typing import Any

from django.db import models

from massmigration.models import MigrationRecord
from massmigration.operations import OperationsMigration
from testsupport.inline_migrations import launch, register
from testsupport.operations_app.models import Person

ROWS = 30


def make_people(db_alias: str, count: int = ROWS, **fields: Any) -> None:
    """Create people, every second of whom has a favorite color."""
    Person.objects.using(db_alias).bulk_create(
        Person(**{"name": f"Person {index}", "favourite_colour": None if index % 2 else "red", **fields})
        for index in range(count)
    )


def run(monkeypatch: Any, db_alias: str, *operations: Any, **attributes: Any) -> MigrationRecord:
    """Launch a migration of these operations, and return its record as it is afterwards."""
    migration = type("Migration", (OperationsMigration,), {"operations": operations, **attributes})
    return launch(register(monkeypatch, migration), db_alias)


def values(db_alias: str, name: str, model: type[models.Model] = Person) -> list[Any]:
    """Return the values of one field, in the order of the keys."""
    return list(model._base_manager.using(db_alias).order_by("pk").values_list(name, flat=True))
