"""The code and the schema migrations that require migrations, for checks and commands."""

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
"""Bytes that are in the file of every schema migration with a gate."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Requirer:
    """Code or a schema migration that requires a migration."""

    key: str
    by: str
    """The dotted name of the code, or the name of the schema migration."""

    by_app: str = ""
    """The app label of the schema migration; empty for code."""

    is_inline_in_transaction: bool = False
    """Whether it is a gate with `run_inline_up_to` in a transaction, where it cannot run the migration."""


_by_code: set[Requirer] = set()


def register(key: str, name: str) -> None:
    """Register that code requires a migration. Code that is defined inside a function is ignored."""
    if "<locals>" not in name:
        _by_code.add(Requirer(key=key, by=name))


def by_key() -> dict[str, list[str]]:
    """Return the names of what requires each migration, by the migration's key."""
    found: dict[str, list[str]] = {}
    for requirer in [*from_imported_code(), *from_gates()]:
        found.setdefault(requirer.key, []).append(requirer.by)
    return found


def from_imported_code() -> list[Requirer]:
    """Import the project's views and return the decorated code."""
    with contextlib.suppress(Exception):  # Django's own checks report what is wrong with the URLs
        _ = get_resolver().url_patterns
    return from_code()


def from_code() -> list[Requirer]:
    """Return the decorated code that has been imported so far."""
    return sorted(_by_code)


def from_gates() -> list[Requirer]:
    """Return the gates in the schema migrations of the installed apps."""
    return [
        Requirer(
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
    """Yield the gates among the operations of a schema migration, including nested ones."""
    for operation in operations:
        if hasattr(operation, "mass_migration_key"):
            yield operation
        yield from gates(getattr(operation, "database_operations", ()))


def _migrations_with_gates(app_label: str) -> Iterator[Migration]:
    """Import the files that may contain a gate, and yield their migrations. An app may have hundreds of files."""
    module, _ = MigrationLoader.migrations_module(app_label)
    if module is None or module == "massmigration.migrations" or not (folder := _folder(module)):
        return
    for path in sorted(folder.glob("*.py")):
        if path.stem[0] in "_~" or GATES not in path.read_bytes():
            continue
        try:
            found = getattr(importlib.import_module(f"{module}.{path.stem}"), "Migration", None)
        except Exception:  # Django's own commands report it
            continue
        if found is not None:
            yield found(path.stem, app_label)


def _folder(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except ImportError:
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None
