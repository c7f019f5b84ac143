"""System checks: what can be known to be wrong from the code and the settings alone."""

from __future__ import annotations

import datetime as dt
import difflib
import importlib.metadata
import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import connections
from django.utils.module_loading import import_string

from massmigration.backends import handler
from massmigration.backends.base import BaseBackend, problem_of_actions
from massmigration.conf import PREFIX, Settings, settings
from massmigration.definitions import vetting
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadBackend, BadMigrationFile, MassMigrationError
from massmigration.loader import store

TAG = "massmigration"

PREDECESSOR = "django-mass-migration"

_DELETE = "delete it where it has done its work everywhere; the others are not affected"


def connect() -> None:
    """Called when Django's apps are ready."""
    register(check, TAG)


def check(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Everything; of the migrations only those of `app_configs`, if given."""
    labels = None if app_configs is None else {config.label for config in app_configs}
    migrations = [each for each in store.by_key.values() if labels is None or each.app_label in labels]
    found = chain(
        check_predecessor(),
        check_settings(),
        check_files(labels),
        chain.from_iterable(map(check_migration, migrations)),
        check_circles(),
        check_backends(migrations),
    )
    return list(found)


def check_predecessor() -> Iterator[CheckMessage]:
    """E007: both distributions write into the folder `massmigration`."""
    try:
        version = importlib.metadata.version(PREDECESSOR)
    except importlib.metadata.PackageNotFoundError:
        return
    yield Error(
        f"{PREDECESSOR} {version} is installed beside massmigration-core, and both are imported as 'massmigration'.",
        hint=f"Run: pip uninstall {PREDECESSOR}; then: pip install --force-reinstall --no-deps massmigration-core",
        id="massmigration.E007",
    )


def check_settings() -> Iterator[CheckMessage]:
    """E006: values that make no sense; E008: a queue of the predecessor's without a backend; W003: unknown names."""
    given = settings.given()
    known = {name for name in vars(Settings) if name.isupper()}
    for name in sorted(given.keys() - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        yield Warning(
            f"There is no setting {PREFIX}{name}.", hint=f"Did you mean {PREFIX}{near[0]}?", id="massmigration.W003"
        )
    problems = {name: _problem_of_setting(name, value) for name, value in given.items() if name in known}
    for name, problem in problems.items():
        if problem:
            yield _bad_setting(name, f"is {given[name]!r}; it must be {problem}")
    if not (problems.get("LEASE") or problems.get("IDLE_LIMIT")) and settings.IDLE_LIMIT <= settings.LEASE:
        text = f"is {settings.IDLE_LIMIT!s}; it must be longer than {PREFIX}LEASE, which is {settings.LEASE!s}"
        yield _bad_setting("IDLE_LIMIT", text)
    if _lacks_backend_of_queue():
        yield Error(
            f"{PREFIX}TASK_QUEUE is set, and {PREFIX}BACKEND is not: massmigration-djangae would be the backend, "
            "but it is not installed.",
            hint=f"Run: pip install massmigration-djangae. Or set {PREFIX}BACKEND.",
            id="massmigration.E008",
        )


def check_files(labels: set[str] | None = None) -> Iterator[CheckMessage]:
    """W004: files that cannot be used; W001: files of one app with one number."""
    numbers = defaultdict(list)
    for key in sorted([*store.by_key, *store.errors]):
        app_label, _, name = key.partition(":")
        if labels is not None and app_label not in labels:
            continue
        numbers[app_label, int(name.partition("_")[0])].append(name)
        if key in store.errors:
            # No error: that would keep `migrate` and `runserver` from a site whose old files outlive their models.
            yield Warning(str(store.errors[key]), hint=f"Correct the file, or {_DELETE}.", id="massmigration.W004")
    for (app_label, _), names in numbers.items():
        if len(names) > 1:
            yield Warning(
                f"Migrations of app {app_label!r} have the same number: {', '.join(map(repr, names))}.",
                hint="Rename the one that has been applied nowhere yet. The name of an applied one must stay as it is.",
                id="massmigration.W001",
            )


def check_migration(migration: BaseMigration) -> Iterator[CheckMessage]:
    """E003: databases that do not exist; E005, W005: what cannot be launched; E009, W002: dependencies."""
    allowed = migration.allowed_db_aliases
    unknown = [allowed] if isinstance(allowed, str) else sorted({*migration.get_allowed_db_aliases()} - {*connections})
    if unknown:
        yield Error(
            f"Migration {migration.key!r} has allowed_db_aliases = {allowed!r}; "
            f"it must be a list out of {', '.join(map(repr, connections))}.",
            hint=f"Correct {', '.join(map(repr, unknown))}, or add it to DATABASES.",
            id="massmigration.E003",
        )
    yield from _check_stages(migration)
    if not _has_pairs(migration):
        yield Error(
            f"Migration {migration.key!r} has dependencies = {migration.dependencies!r}.",
            hint='It must be a list of pairs: dependencies = [("app_label", "0001_name")].',
            id="massmigration.E009",
        )
        return
    for app_label, name in migration.dependencies:
        key = f"{app_label}:{name}"
        if key not in store.by_key and key not in store.errors:
            yield Warning(
                f"Migration {migration.key!r} depends on {key!r}, which is in no file.",
                hint="Correct the name. If the file was deleted: it can be launched only where that one is applied.",
                id="massmigration.W002",
            )


def check_circles() -> Iterator[CheckMessage]:
    """E002: circles of dependencies."""
    if not all(map(_has_pairs, store.by_key.values())):
        return
    for circle in store.circles():
        yield Error(
            f"Migrations depend on each other in a circle: {circle}.",
            hint="None of them can ever be launched: each waits for the others to be applied. Remove one dependency.",
            id="massmigration.E002",
        )


def check_backends(migrations: Iterable[BaseMigration]) -> Iterator[CheckMessage]:
    """E004: no backend at the path of the settings or of a migration; and what the backends themselves say."""
    if _problem_of_setting("BACKEND", settings.BACKEND) or _problem_of_setting(
        "BACKEND_OPTIONS", settings.BACKEND_OPTIONS
    ):
        return
    if _lacks_backend_of_queue():
        return
    messages = [*_check_backend("The setting MASSMIGRATION_BACKEND", handler.get_backend)]
    for migration in migrations:
        if migration.backend or migration.queue_name or migration.backend_params:
            messages += _check_backend(f"Migration {migration.key!r}", partial(handler.backend_of, migration))
    for index, message in enumerate(messages):
        if message not in messages[:index]:  # migrations share what is wrong with a backend
            yield message


def _check_backend(whose: str, get: Callable[[], object]) -> Iterator[CheckMessage]:
    try:
        backend = get()
        if isinstance(backend, BaseBackend):
            yield from _check_actions(whose, backend)
            yield from backend.check()
    except BadBackend as error:
        yield Error(f"{whose}: {error}", hint="Correct the path, or install its package.", id="massmigration.E004")
    except Exception as error:  # whatever a backend's own code raises must not end every other command
        hint = "See MASSMIGRATION_BACKEND_OPTIONS, and backend_params and queue_name of migrations."
        text = f"{whose}: the backend cannot be made: {type(error).__name__}: {error}"
        yield Error(text, hint=hint, id="massmigration.E004")


def _check_actions(whose: str, backend: BaseBackend) -> Iterator[CheckMessage]:
    if problem := problem_of_actions(backend.admin_actions):
        text = f"{whose}: the backend {type(backend).__qualname__} has admin_actions {problem}."
        yield Error(text, hint="Rename them in the backend.", id="massmigration.E004")


def _problem_of_setting(name: str, value: Any) -> str:
    """What the value must be; empty if it is."""
    default = vars(Settings).get(name)
    if name == "RECORD_CACHE_TIMEOUT":
        seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        return "" if is_number and seconds >= 0 else "a timedelta or a number of seconds, not negative"
    if name == "THROTTLE":
        is_list = isinstance(value, (list, tuple)) and all(map(_can_be_called, value))
        return "" if is_list else "a list of callables, or of dotted paths of such that can be imported"
    if name == "TASK_QUEUE":
        return "" if value is None or isinstance(value, str) else "a text or None"
    if isinstance(default, dt.timedelta):
        return "" if isinstance(value, dt.timedelta) and value > dt.timedelta() else "a timedelta above zero"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(default, int):
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return "" if is_int and value >= 1 else "a whole number, 1 or more"
    if isinstance(default, str):
        return "" if isinstance(value, str) and value else "a text"
    if isinstance(default, dict):
        return "" if isinstance(value, dict) else "a dict"
    return ""


def _can_be_called(given: Any) -> bool:
    try:
        return callable(import_string(given) if isinstance(given, str) else given)
    except ImportError:
        return False


def _check_stages(migration: BaseMigration) -> Iterator[CheckMessage]:
    own = type(migration)
    launches_itself = own.launch is not BaseMigration.launch
    has_method_of_backend = own.get_stages is BaseMigration.get_stages and isinstance(migration.backend_method, str)
    if launches_itself or has_method_of_backend:
        return
    hint = "Correct the file; it cannot be launched as it is."
    try:
        stages = vetting.check_methods(migration)
    except BadMigrationFile as error:
        yield Error(str(error), hint=hint, id="massmigration.E005")
        return
    except Exception as error:  # get_stages may be the user's own
        text = f"Migration {migration.key!r} raised in get_stages(): {type(error).__name__}: {error}"
        yield Error(text, hint=hint, id="massmigration.E005")
        return
    aliases = [name for name in migration.get_allowed_db_aliases() if name in connections]
    if not aliases or not _is_run_by_engine(migration):
        return
    try:
        vetting.check_models(stages, aliases[0])
    except MassMigrationError as error:
        # No error: models change, and files that have done their work stay as they are.
        hint = f"It cannot be launched as it is. Correct the file, or {_DELETE}."
        yield Warning(str(error), hint=hint, id="massmigration.W005")


def _is_run_by_engine(migration: BaseMigration) -> bool:
    try:
        return isinstance(handler.backend_of(migration), BaseBackend)
    except Exception:  # E004 tells
        return False


def _lacks_backend_of_queue() -> bool:
    given = settings.given()
    return bool(given.get("TASK_QUEUE")) and not given.get("BACKEND") and not _is_installed("massmigration_djangae")


def _has_pairs(migration: BaseMigration) -> bool:
    dependencies: Any = migration.dependencies
    return isinstance(dependencies, (list, tuple)) and all(
        isinstance(each, (list, tuple)) and [type(part) for part in each] == [str, str] for each in dependencies
    )


def _bad_setting(name: str, text: str) -> Error:
    hint = f"The default is {vars(Settings)[name]!r}." if name in vars(Settings) else None
    return Error(f"{PREFIX}{name} {text}.", hint=hint, id="massmigration.E006")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
