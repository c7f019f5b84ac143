"""Finds the migrations that a command line means."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django.apps import apps
from django.core.management.base import CommandError

from massmigration.definitions.base import BaseMigration
from massmigration.loader import FOLDER, store

EXIT_UNKNOWN_APP = 2


def choose(app_label: str | None, name: str | None) -> tuple[Sequence[BaseMigration], bool]:
    """The migrations in the order of their dependencies, and whether a single one was named.

    `app_label` may be a key, `app_label:name`; `name` may be the beginning of one. Files that cannot be used
    are refused when they are among the migrations meant.
    """
    if app_label is None:
        _refuse_broken("")
        return store.all, False
    app_label, name = _parts(app_label, name)
    check_app(app_label)
    if name is not None:
        return [store.get(_match(app_label, name, [*store.by_key, *store.errors]))], True
    _refuse_broken(f"{app_label}:")
    chosen = store.of_app(app_label)
    if not chosen:
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
        raise CommandError(str(error.args[0]), returncode=EXIT_UNKNOWN_APP) from None


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


def _refuse_broken(prefix: str) -> None:
    store.by_key  # noqa: B018  # reads the files, and finds the errors
    for key, error in sorted(store.errors.items()):
        if key.startswith(prefix):
            raise error
