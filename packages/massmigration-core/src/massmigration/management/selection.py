"""The selection of migrations by the arguments of a command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django.apps import apps
from django.core.management.base import CommandError

from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import FOLDER, store

EXIT_UNKNOWN_APP = 2


def select_migrations(app_label: str | None, name: str | None) -> tuple[Sequence[BaseMigration], bool]:
    """Return the migrations in the order of their dependencies, and whether a single one was named.

    `app_label` may be a key, `app_label:name`; `name` may be a prefix. Raise an error if the file of a named migration
    cannot be used. Otherwise such files are left out; `unusable_files` returns them.
    """
    if app_label is None:
        return store.all, False
    app_label, name = _parts(app_label, name)
    check_app(app_label)
    if name is not None:
        return [store.get(_match(app_label, name, [*store.by_key, *store.errors]))], True
    chosen = store.of_app(app_label)
    if not chosen and not unusable_files(app_label):
        raise CommandError(f"App {app_label!r} has no mass migrations: its {FOLDER} folder is empty or missing.")
    return chosen, False


def select_key(app_label: str | None, name: str | None, recorded: Collection[str]) -> str:
    """Return the key of one migration. Its file or app may be missing if its key is one of `recorded`."""
    app_label, name = _parts(app_label or "", name)
    if not app_label or name is None:
        raise CommandError("Name one migration: by its key, app_label:name, or by its app label and name.")
    if not any(key.startswith(f"{app_label}:") for key in recorded):
        check_app(app_label)
    return _match(app_label, name, {*store.by_key, *store.errors, *recorded})


def check_app(app_label: str) -> None:
    """Raise `CommandError` with Django's message and exit code unless the app is installed."""
    try:
        apps.get_app_config(app_label)
    except LookupError as error:
        hint = ""
        if app_label[:1].isdigit():
            labels = sorted(
                {key.partition(":")[0] for key in store.by_key if key.partition(":")[2].startswith(app_label)}
            )
            apps_meant = ", ".join(f"{each} {app_label}" for each in labels) or f"APP {app_label}"
            hint = f" Put the app label before the name of a migration: {apps_meant}."
        raise CommandError(f"{error.args[0]}{hint}", returncode=EXIT_UNKNOWN_APP) from None


def _parts(app_label: str, name: str | None) -> tuple[str, str | None]:
    if ":" in app_label and name is None:
        app_label, _, name = app_label.partition(":")
    return app_label, name


def _match(app_label: str, name: str, keys: Collection[str]) -> str:
    known = sorted(key.partition(":")[2] for key in keys if key.startswith(f"{app_label}:"))
    found = [name] if name in known else [each for each in known if each.startswith(name)]
    if len(found) > 1:
        raise CommandError(
            f"More than one migration matches {name!r} in app {app_label!r}: {', '.join(found)}. "
            "Please be more specific."
        )
    if not found:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise CommandError(f"Cannot find a migration matching {name!r} from app {app_label!r}; {has}.")
    return f"{app_label}:{found[0]}"


def unusable_files(app_label: str | None) -> dict[str, BadMigrationFile]:
    """Return the errors of the files that cannot be used, by key, of one app or of all."""
    store.by_key  # noqa: B018  # reads the files, which fills `errors`
    app_label = app_label and app_label.partition(":")[0]
    return {key: error for key, error in sorted(store.errors.items()) if app_label in (None, key.partition(":")[0])}
