"""The migration files of the installed apps, in the order of their dependencies."""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from django.apps import AppConfig, apps

from massmigration import text
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadMigrationFile, MigrationNotFound

FOLDER = "massmigrations"
MAX_KEY = 255
"""The maximum length of a key: that of its column."""

_NAME = re.compile(r"\d{1,5}_[a-z0-9_]+")


def is_valid_name(name: str) -> bool:
    """Return whether a migration can have this name: a number, an underscore, and lowercase letters, digits or `_`."""
    return bool(_NAME.fullmatch(name))


class MigrationsStore:
    """The migrations of the installed apps, read from disk once."""

    def __init__(self) -> None:
        self._by_key: dict[str, BaseMigration] | None = None
        self.sources: list[Callable[[], Iterable[BaseMigration]]] = []
        """Callables that return migrations which have no file of their own. Add one with `add_source`."""

        self.source_errors: list[str] = []
        """What is wrong with sources and with single migrations of them. Other migrations are not affected."""

        self.errors: dict[str, BadMigrationFile] = {}
        """The errors of files that cannot be used, by the key of the migration. Other files are not affected."""

        self.misnamed: list[str] = []
        """The paths of files that look like migrations but have names that migrations cannot have."""

    @property
    def by_key(self) -> dict[str, BaseMigration]:
        """The migrations by their keys."""
        if self._by_key is None:
            self.errors, self.misnamed, self.source_errors = {}, [], []
            self._by_key = self._load()
        return self._by_key

    @property
    def all(self) -> list[BaseMigration]:
        """All migrations. Each one comes after its dependencies, and apart from that they are sorted by app and "
        "name."""
        return self._ordered([])

    def add_source(self, source: Callable[[], Iterable[BaseMigration]]) -> None:
        """Add a source of migrations, in an app's `ready()`. It is called whenever the files are read.

        The migrations need no file, and their names need no number. Every process must find the same ones. If two have
        the same key, only the first is used.
        """
        if source not in self.sources:
            self.sources.append(source)
            self.reset()

    def reset(self) -> None:
        """Read the files again at the next use."""
        self._by_key = None

    def load(self) -> None:
        """Read the files again now."""
        self.reset()
        _ = self.by_key

    def get(self, key: str) -> BaseMigration:
        """Return a migration.

        Raise `MigrationNotFound` if there is no such file, and `BadMigrationFile` if it cannot be used.
        """
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
        """Add migrations that have no file, in this process, until the block ends."""
        before = self.by_key
        self._by_key = {**before, **{migration.key: migration for migration in migrations}}
        try:
            yield
        finally:
            self._by_key = before

    def of_app(self, app_label: str) -> list[BaseMigration]:
        """Return the migrations of one app in their order."""
        return [migration for migration in self.all if migration.app_label == app_label]

    def _load(self) -> dict[str, BaseMigration]:
        found = {}
        for config in apps.get_app_configs():
            folder = Path(config.path) / FOLDER
            names = sorted(path.stem for path in folder.glob("*.py")) if folder.is_dir() else []
            for name in names:
                if not is_valid_name(name):
                    if name[:1].isdigit():
                        self.misnamed.append(f"{config.label}/{FOLDER}/{name}.py")
                    continue
                key = f"{config.label}:{name}"
                try:
                    found[key] = _load_file(config, name)
                except BadMigrationFile as error:
                    self.errors[key] = error
        for source in self.sources:
            self._add_of_source(source, found)
        return found

    def _add_of_source(self, source: Callable[[], Iterable[BaseMigration]], found: dict[str, BaseMigration]) -> None:
        name = f"{source.__module__}.{getattr(source, '__qualname__', type(source).__name__)}"
        try:
            migrations = list(source())
        except (Exception, SystemExit) as error:
            self.source_errors.append(f"The source {name} of migrations raised {text.described(error)}")
            return
        for migration in migrations:
            if problem := _problem_of(migration, {*found, *self.errors}):
                self.source_errors.append(f"The source {name} of migrations returned {problem}")
            else:
                found[migration.key] = migration

    def circles(self) -> list[str]:
        """Return the circles of dependencies, each as `a -> b -> a`."""
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


def _problem_of(migration: object, known: Collection[str]) -> str:
    """Return why a migration of a source cannot be used, or an empty string."""
    if not isinstance(migration, BaseMigration):
        return f"{text.safe_repr(migration)}, which is not an instance of BaseMigration."
    key = migration.key
    has_parts = all(part and part.isprintable() and ":" not in part for part in (migration.app_label, migration.name))
    if not has_parts or len(key) > MAX_KEY:
        return (
            f"a migration with the key {text.safe_repr(key)}; a key has the form app_label:name and at most {MAX_KEY} "
            "characters."
        )
    if key in known:
        return f"a second migration with the key {key!r}."
    try:
        _ = migration.needed_keys
    except Exception as error:
        return f"{key!r}, which cannot be used: {text.described(error)}"
    return ""


def _load_file(config: AppConfig, name: str) -> BaseMigration:
    place = f"{config.label}/{FOLDER}/{name}.py"
    try:
        module = importlib.import_module(f"{config.name}.{FOLDER}.{name}")
    except (Exception, SystemExit) as error:
        raise BadMigrationFile(f"{place} cannot be imported: {text.described(error)}") from error
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
        raise BadMigrationFile(f"{place} cannot be used: {text.described(error)}") from error
    migration.source_hash  # noqa: B018  # read the file now, because it may change after it was imported
    return migration


store = MigrationsStore()


# The names that django-mass-migration had.

load_migration = _load_file
is_valid_migration_id = is_valid_name


def is_valid_migration_name(name: str) -> bool:
    """Return whether a migration can have this name after its number."""
    return is_valid_name(f"1_{name}")


def migration_id_from_filename(filename: str) -> str | None:
    """Return the name of the migration in a file, or None if the file is not a migration's."""
    name = filename.removesuffix(".py")
    return name if name != filename and is_valid_name(name) else None
