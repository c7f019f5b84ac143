"""Lists what is required, and by which code or schema migration: for checks and commands, not for enforcing it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.apps import apps
from django.db.migrations import Migration
from django.db.migrations.loader import MigrationLoader
from django.urls import get_resolver

GATES = b"massmigration"
"""What the file of a schema migration with a gate contains."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Need:
    """One thing that requires a migration."""

    key: str
    by: str
    """The code's dotted name, or the schema migration's."""

    by_app: str = ""
    """The schema migration's app."""

    is_inline_in_transaction: bool = False
    """Is it a gate that can never run the migration itself, although it says so?"""


_by_code: set[Need] = set()


def note(key: str, name: str) -> None:
    """Note that code requires a migration. What is defined inside a function is nobody's to list."""
    if "<locals>" not in name:
        _by_code.add(Need(key=key, by=name))


def by_key() -> dict[str, list[str]]:
    """What requires each migration, by its key."""
    found: dict[str, list[str]] = {}
    for need in [*of_imported_code(), *of_gates()]:
        found.setdefault(need.key, []).append(need.by)
    return found


def of_imported_code() -> list[Need]:
    """What decorated code requires, once the views are imported."""
    with contextlib.suppress(Exception):  # whatever is wrong there, Django's own checks say it
        _ = get_resolver().url_patterns
    return of_code()


def of_code() -> list[Need]:
    """What the decorated code that has been imported so far requires."""
    return sorted(_by_code)


def of_gates() -> list[Need]:
    """What the schema migrations of the installed apps require."""
    return [
        Need(
            key=gate.mass_migration_key,
            by=f"schema migration {config.label}.{migration.name}",
            by_app=config.label,
            is_inline_in_transaction=gate.run_inline_up_to is not None and migration.atomic,
        )
        for config in apps.get_app_configs()
        for migration in _migrations_with_gates(config.label)
        for gate in gates(migration.operations)
    ]


def gates(operations: Iterable[Any]) -> Iterator[Any]:
    """The gates among the operations of a schema migration, those inside of others included."""
    for operation in operations:
        if hasattr(operation, "mass_migration_key"):
            yield operation
        yield from gates(getattr(operation, "database_operations", ()))


def _migrations_with_gates(app_label: str) -> Iterator[Migration]:
    """Only files that may have one are imported: checks run often, and apps may have hundreds."""
    module, _ = MigrationLoader.migrations_module(app_label)
    if module is None or module == "massmigration.migrations" or not (folder := _folder(module)):
        return
    for path in sorted(folder.glob("*.py")):
        if path.stem[0] in "_~" or GATES not in path.read_bytes():
            continue
        found = getattr(importlib.import_module(f"{module}.{path.stem}"), "Migration", None)
        if found is not None:
            yield found(path.stem, app_label)


def _folder(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ImportError:
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None
