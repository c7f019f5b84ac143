"""Finds the migrations that a command line means."""

from __future__ import annotations

from collections.abc import Sequence

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
    if ":" in app_label and name is None:
        app_label, _, name = app_label.partition(":")
    check_app(app_label)
    if name is not None:
        return [_by_prefix(app_label, name)], True
    _refuse_broken(f"{app_label}:")
    chosen = store.of_app(app_label)
    if not chosen:
        raise CommandError(f"App {app_label!r} has no mass migrations: found no files in its {FOLDER} folder.")
    return chosen, False


def check_app(app_label: str) -> None:
    """Raise `CommandError`, with Django's words and exit code, unless the app is installed."""
    try:
        apps.get_app_config(app_label)
    except LookupError as error:
        raise CommandError(str(error.args[0]), returncode=EXIT_UNKNOWN_APP) from None


def _by_prefix(app_label: str, name: str) -> BaseMigration:
    known = [key.partition(":")[2] for key in [*store.by_key, *store.errors] if key.startswith(f"{app_label}:")]
    found = [each for each in known if each.startswith(name)]
    if name in found:
        found = [name]
    if len(found) > 1:
        raise CommandError(
            f"More than one migration matches {name!r} in app {app_label!r}: {', '.join(sorted(found))}. "
            "Please be more specific."
        )
    if not found:
        has = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise CommandError(f"Cannot find a migration matching {name!r} from app {app_label!r}; {has}.")
    return store.get(f"{app_label}:{found[0]}")


def _refuse_broken(prefix: str) -> None:
    store.by_key  # noqa: B018  # reads the files, and finds the errors
    for key, error in sorted(store.errors.items()):
        if key.startswith(prefix):
            raise error
