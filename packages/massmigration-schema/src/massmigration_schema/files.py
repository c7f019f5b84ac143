"""The files of schema migrations that are made online."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from massmigration_schema.migration import OnlineMigration


@dataclasses.dataclass(frozen=True, eq=False)
class SchemaMigrationFile:
    """One schema migration, and the state of the project before it."""

    migration: OnlineMigration
    loader: MigrationLoader

    @property
    def app_label(self) -> str:
        """The label of its app."""
        return str(self.migration.app_label)

    @property
    def name(self) -> str:
        """Its name, without the app's label."""
        return str(self.migration.name)

    @property
    def path(self) -> Path | None:
        """The file, or None if there is none."""
        try:
            return Path(inspect.getfile(type(self.migration)))
        except (OSError, TypeError):
            return None

    @property
    def source(self) -> bytes:
        """The content of the file, or nothing if there is none."""
        try:
            return self.path.read_bytes() if self.path else b""
        except OSError:
            return b""

    @property
    def needed(self) -> list[tuple[str, str]]:
        """The migrations before it, as app label and name."""
        plan = self.loader.graph.forwards_plan((self.app_label, self.name))
        return [node for node in plan if node != (self.app_label, self.name)]

    @property
    def dependent(self) -> list[tuple[str, str]]:
        """The migrations that need this one, as app label and name."""
        plan = self.loader.graph.backwards_plan((self.app_label, self.name))
        return [node for node in plan if node != (self.app_label, self.name)]

    def before(self) -> ProjectState:
        """Return the state of the project before the migration."""
        state: Any = self.loader.project_state((self.app_label, self.name), at_end=False)
        return state  # type: ignore[no-any-return]


def online_migrations() -> Iterator[SchemaMigrationFile]:
    """Yield every schema migration on disk that is made online. No database is asked which are applied."""
    loader = MigrationLoader(None, ignore_no_migrations=True)
    for migration in loader.disk_migrations.values():
        if isinstance(migration, OnlineMigration):
            yield SchemaMigrationFile(migration, loader)
