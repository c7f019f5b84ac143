"""Finds the migrations in the installed apps, and orders them by dependency."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from django.apps import AppConfig, apps

from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadMigrationFile, MigrationNotFound

FOLDER = "massmigrations"
_NAME = re.compile(r"\d{1,5}_[a-z0-9_]+")


def is_valid_name(name: str) -> bool:
    """Whether `name` is a migration's: a number, an underscore, and lower-case letters, digits, underscores."""
    return bool(_NAME.fullmatch(name))


class MigrationsStore:
    """The migrations of the installed apps, read from disk once."""

    def __init__(self) -> None:
        self._by_key: dict[str, BaseMigration] | None = None
        self.errors: dict[str, BadMigrationFile] = {}
        """Why a file could not be used, by the key it would have had. The others are not affected."""

    @property
    def by_key(self) -> dict[str, BaseMigration]:
        if self._by_key is None:
            self.errors = {}
            self._by_key = self._load()
        return self._by_key

    @property
    def all(self) -> list[BaseMigration]:
        """Every migration, after those that it depends on; otherwise by app and name."""
        return self._ordered([])

    def reset(self) -> None:
        """Read the files again when next asked."""
        self._by_key = None

    def load(self) -> None:
        """Read the files again now."""
        self.reset()
        _ = self.by_key

    def get(self, key: str) -> BaseMigration:
        """Raise `BadMigrationFile` if its file cannot be used, `MigrationNotFound` if there is none."""
        migration = self.by_key.get(key)
        if migration is not None:
            return migration
        if key in self.errors:
            raise self.errors[key]
        app_label, _, name = key.partition(":")
        raise MigrationNotFound(
            f"There is no migration {key!r}: found no file {FOLDER}/{name}.py in app {app_label!r}."
        )

    @contextlib.contextmanager
    def registered(self, *migrations: BaseMigration) -> Iterator[None]:
        """Hold migrations that are in no file of their own, in this process, until the block ends."""
        before = self.by_key
        self._by_key = {**before, **{migration.key: migration for migration in migrations}}
        try:
            yield
        finally:
            self._by_key = before

    def of_app(self, app_label: str) -> list[BaseMigration]:
        return [migration for migration in self.all if migration.app_label == app_label]

    def _load(self) -> dict[str, BaseMigration]:
        found = {}
        for config in apps.get_app_configs():
            folder = Path(config.path) / FOLDER
            names = sorted(path.stem for path in folder.glob("*.py")) if folder.is_dir() else []
            for name in filter(is_valid_name, names):
                key = f"{config.label}:{name}"
                try:
                    found[key] = _load_file(config, name)
                except BadMigrationFile as error:
                    self.errors[key] = error
        return found

    def circles(self) -> list[str]:
        """The circles of dependencies, each as `a -> b -> a`. None of their members can ever be launched."""
        found: list[str] = []
        self._ordered(found)
        return found

    def _ordered(self, circles: list[str]) -> list[BaseMigration]:
        done: dict[str, BaseMigration] = {}
        for migration in self.by_key.values():
            self._visit(migration, done, (), circles)
        return list(done.values())

    def _visit(
        self, migration: BaseMigration, done: dict[str, BaseMigration], path: tuple[str, ...], circles: list[str]
    ) -> None:
        if migration.key in path:
            circles.append(" -> ".join((*path[path.index(migration.key) :], migration.key)))
        if migration.key in path or migration.key in done:
            return
        for key in migration.needed_keys:
            needed = self.by_key.get(key)
            if needed is not None:
                self._visit(needed, done, (*path, migration.key), circles)
        done[migration.key] = migration


def _load_file(config: AppConfig, name: str) -> BaseMigration:
    place = f"{config.label}/{FOLDER}/{name}.py"
    try:
        module = importlib.import_module(f"{config.name}.{FOLDER}.{name}")
    except (Exception, SystemExit) as error:
        raise BadMigrationFile(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    cls = getattr(module, "Migration", None)
    if not (isinstance(cls, type) and issubclass(cls, BaseMigration)):
        raise BadMigrationFile(
            f"{place} has no class named Migration that is a subclass of SimpleMigration, MapperMigration or "
            "BaseMigration."
        )
    try:
        migration = cls(config.label, name)
        _ = migration.needed_keys
    except Exception as error:
        raise BadMigrationFile(f"{place} cannot be used: {type(error).__name__}: {error}") from error
    migration.source_hash  # noqa: B018  # read now: later the file may be another than the one that was imported
    return migration


store = MigrationsStore()


# The names that django-mass-migration had.

load_migration = _load_file
is_valid_migration_id = is_valid_name


def is_valid_migration_name(name: str) -> bool:
    """Whether `name`, without a number, can be a migration's."""
    return is_valid_name(f"1_{name}")


def migration_id_from_filename(filename: str) -> str | None:
    """The name of the migration in a file; None if it is not one's."""
    name = filename.removesuffix(".py")
    return name if name != filename and is_valid_name(name) else None
