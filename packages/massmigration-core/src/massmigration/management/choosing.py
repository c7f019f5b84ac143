"""Finds the migrations that a command line means."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django.apps import apps
from django.core.management.base import CommandError

from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import FOLDER, store

EXIT_UNKNOWN_APP = 2


def choose(app_label: str | None, name: str | None) -> tuple[Sequence[BaseMigration], bool]:
    """The migrations in the order of their dependencies, and whether a single one was named.

    `app_label` may be a key, `app_label:name`; `name` may be the beginning of one. A file that cannot be used
    is refused when it is named, and left out otherwise: see `broken`.
    """
    if app_label is None:
        return store.all, False
    app_label, name = _parts(app_label, name)
    check_app(app_label)
    if name is not None:
        return [store.get(_match(app_label, name, [*store.by_key, *store.errors]))], True
    chosen = store.of_app(app_label)
    if not chosen and not broken(app_label):
        raise CommandError(f"App {app_label!r} has no mass migrations: found no files in its {FOLDER} folder.")
    return chosen, False


def choose_key(app_label: str | None, name: str | None, recorded: Collection[str]) -> str:
    """The key of one migration. Its file may be gone or broken, and even its app, if its key is among `recorded`."""
    app_label, name = _parts(app_label or "", name)
    if not app_label or name is None:
        raise CommandError("Say which migration: its key, app_label:name, or its app label and name.")
    if not any(key.startswith(f"{app_label}:") for key in recorded):
        check_app(app_label)
    return _match(app_label, name, {*store.by_key, *store.errors, *recorded})


def check_app(app_label: str) -> None:
    """Raise `CommandError`, with Django's words and exit code, unless the app is installed."""
    try:
        apps.get_app_config(app_label)
    except LookupError as error:
        hint = ""
        if app_label[:1].isdigit():
            having = sorted(
                {key.partition(":")[0] for key in store.by_key if key.partition(":")[2].startswith(app_label)}
            )
            apps_meant = ", ".join(f"{each} {app_label}" for each in having) or f"APP {app_label}"
            hint = f" A migration's name comes after its app: {apps_meant}."
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


def broken(app_label: str | None) -> dict[str, BadMigrationFile]:
    """Why files cannot be used, by key: those of an app, or of all."""
    store.by_key  # noqa: B018  # reads the files, and finds the errors
    app_label = app_label and app_label.partition(":")[0]
    return {key: error for key, error in sorted(store.errors.items()) if app_label in (None, key.partition(":")[0])}
