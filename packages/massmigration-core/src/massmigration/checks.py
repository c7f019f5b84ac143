"""System checks of migration files, settings, backends, and the code and gates that require migrations."""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import importlib.metadata
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, connections
from django.db.migrations.loader import MigrationLoader
from django.template import TemplateSyntaxError
from django.template.loader import get_template
from django.utils.module_loading import import_string

from massmigration.backends import handler
from massmigration.backends.base import BaseBackend, problem_of_actions
from massmigration.conf import LEVELS, PREFIX, BaseSettings, Settings, registered, settings
from massmigration.definitions import validation
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import is_share
from massmigration.dialects import dialect_of, is_document_database
from massmigration.enforcement import registry
from massmigration.enforcement.registry import Requirer
from massmigration.exceptions import BadBackend, BadMigrationFile, MassMigrationError
from massmigration.loader import is_valid_name, store
from massmigration.models import MigrationRecord
from massmigration.recorder import tables
from massmigration.states import Status, command_for
from massmigration.text import described

TAG = "massmigration"

PREDECESSOR = "django-mass-migration"

MIGRATIONS = "massmigration.migrations"

DATASTORE_EMULATOR = "DATASTORE_EMULATOR_HOST"
_DOCUMENT_DATABASES = {
    "datastore": (
        "Google's Datastore emulator cannot list kinds: 'migrate' fails with \"Kind queries are not supported\"."
    ),
    "firestore": (
        "From its second run on, 'migrate' can fail with an IntegrityError for auth_permission, which comes from "
        "django-gcloud-connectors, after all migrations have been applied."
    ),
}
"""What goes wrong with `migrate`, by the name of the database engine."""

TEMPLATES = {
    "base.html": "standalone.html and in_admin.html",
    "manage_migrations.html": "manage.html",
    "run_migration.html": "run.html",
    "migration_detail.html": "detail.html",
    "delete_migration.html": "confirm.html",
}
"""The templates of django-mass-migration, which projects may have overridden, and the templates that replace them."""

_DELETE = "delete it if the migration is applied everywhere; other migrations are not affected"


def connect() -> None:
    """Register the checks. Called when Django's apps are ready."""
    register(check, TAG)
    register(check_document_databases, Tags.database)
    register(check_servers, Tags.database)
    register(check_requirers, TAG)
    register(check_outstanding, TAG, deploy=True)


def check(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Run every check that needs no database. `app_configs`: check only the migrations of these apps (default: all)."""
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
    """Check for E007 (django-mass-migration is installed), E012 (migrations for its table), W010 (its templates)."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(PREDECESSOR)
        yield Error(
            f"{PREDECESSOR} {version} and massmigration-core are both installed, and both are imported as "
            "'massmigration'.",
            hint=f"Run: pip uninstall {PREDECESSOR}; then: pip install --force-reinstall --no-deps massmigration-core",
            id="massmigration.E007",
        )
    module, _ = MigrationLoader.migrations_module(TAG)
    if module not in (MIGRATIONS, None):  # None: tables without migrations, as in tests
        yield Error(
            f"MIGRATION_MODULES replaces the schema migrations of massmigration with {module!r}.",
            hint=f"massmigration needs the tables that its own schema migrations create. Remove {TAG!r} from "
            f"MIGRATION_MODULES, then run: manage.py migrate. It converts the table of {PREDECESSOR}.",
            id="massmigration.E012",
        )
    for name, successor in TEMPLATES.items():
        if place := _place_of_template(f"massmigration/{name}"):
            yield Warning(
                f"The template massmigration/{name} is not used any more (found: {place}).",
                hint=f"Delete it. To change the page, override massmigration/{successor}.",
                id="massmigration.W010",
            )


def _place_of_template(name: str) -> str:
    """Return where Django finds a template, or an empty string."""
    try:
        return str(get_template(name).origin)  # type: ignore[attr-defined]
    except TemplateSyntaxError:  # the template exists
        return name
    except Exception:  # there is no such template, or Django's own checks report why it cannot be found
        return ""


def check_settings() -> Iterator[CheckMessage]:
    """Check for E006 (invalid values), E008 (`TASK_QUEUE` without its backend), W003 (unknown settings)."""
    given = {f"{PREFIX}{name}" for name in settings.given()}
    known = {cls.prefix + name for cls in registered() for name in cls.defaults()}
    for name in sorted(given - known):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        yield Warning(f"There is no setting {name}.", hint=f"Did you mean {near[0]}?", id="massmigration.W003")
    problems: dict[str, str] = {}
    for cls in registered():
        for name, value in cls().given().items():
            if problem := name in cls.defaults() and _setting_problem(cls, name, value):
                problems[cls.prefix + name] = problem
                yield _bad_setting(cls, name, f"is {value!r}; it must be {problem}")
    problems = {name.removeprefix(PREFIX): problem for name, problem in problems.items()}
    if not (problems.get("LEASE") or problems.get("IDLE_LIMIT")) and settings.IDLE_LIMIT <= settings.LEASE:
        text = f"is {settings.IDLE_LIMIT!s}; it must be longer than {PREFIX}LEASE, which is {settings.LEASE!s}"
        yield _bad_setting(Settings, "IDLE_LIMIT", text)
    if _lacks_task_queue_backend():
        yield Error(
            f"{PREFIX}TASK_QUEUE is set and {PREFIX}BACKEND is not, so the backend is that of massmigration-djangae, "
            "which is not installed.",
            hint=f"Run: pip install massmigration-djangae. Or set {PREFIX}BACKEND.",
            id="massmigration.E008",
        )


def check_files(labels: set[str] | None = None) -> Iterator[CheckMessage]:
    """Check for W004 (files that cannot be used), W013 (sources) and W001 (files of one app with the same number)."""
    numbers = defaultdict(list)
    for key in sorted([*store.by_key, *store.errors]):
        app_label, _, name = key.partition(":")
        if labels is not None and app_label not in labels:
            continue
        if is_valid_name(name):  # migrations that code has registered may have any name
            numbers[app_label, int(name.partition("_")[0])].append(name)
        if key in store.errors:
            # Not an error: an old file that imports a deleted model must not keep the site from starting.
            yield Warning(str(store.errors[key]), hint=f"Correct the file, or {_DELETE}.", id="massmigration.W004")
    for place in store.misnamed:
        if labels is None or place.partition("/")[0] in labels:
            yield Warning(
                f"{place} is not run, because a migration cannot have this name.",
                hint="Name it with up to five digits, an underscore, and lowercase letters, digits or underscores.",
                id="massmigration.W004",
            )
    for problem in store.source_errors if labels is None else ():
        hint = "Correct the app that has added the source with store.add_source()."
        yield Warning(problem, hint=hint, id="massmigration.W013")
    for (app_label, _), names in numbers.items():
        if len(names) > 1:
            yield Warning(
                f"Migrations of app {app_label!r} have the same number: {', '.join(map(repr, names))}.",
                hint="Rename the one that has not been applied anywhere. Applied migrations must keep their names.",
                id="massmigration.W001",
            )


def check_migration(migration: BaseMigration) -> Iterator[CheckMessage]:
    """Check one migration.

    E003: unknown databases. E005, W005: it cannot be launched. E009, W002: bad dependencies. W009: bad options.
    """
    allowed = migration.allowed_db_aliases
    unknown = [allowed] if isinstance(allowed, str) else sorted({*migration.get_allowed_db_aliases()} - {*connections})
    if unknown:
        yield Error(
            f"Migration {migration.key!r} has allowed_db_aliases = {allowed!r}; "
            f"it must be a list of some of {', '.join(map(repr, connections))}.",
            hint=f"Correct {', '.join(map(repr, unknown))}, or add it to DATABASES.",
            id="massmigration.E003",
        )
    yield from _check_options(migration)
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
                f"Migration {migration.key!r} depends on {key!r}, which has no file.",
                hint="Correct the name. If the file was deleted, the migration can only be launched on databases where "
                f"{key!r} is applied.",
                id="massmigration.W002",
            )


def _check_options(migration: BaseMigration) -> Iterator[CheckMessage]:
    """Check for W009: attributes that look like misspelled options, and options that have no effect."""
    for name, near in validation.misspelled_options(migration).items():
        text = f"Migration {migration.key!r} has an attribute {name!r}, which is not an option."
        hint = f"Did you mean {near!r}? If not, start the attribute's name with an underscore."
        yield Warning(text, hint=hint, id="massmigration.W009")
    for name in validation.ineffective_options(migration):
        kind = next(cls.__name__ for cls in type(migration).__mro__ if cls.__module__.startswith("massmigration."))
        text = f"Migration {migration.key!r} sets {name!r}, which has no effect on a {kind}."
        yield Warning(text, hint="Remove it. It is an option of MapperMigration.", id="massmigration.W009")


def check_document_databases(databases: Sequence[str] | None = None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Check for W011: `migrate` on a document database, where it can fail for reasons that its messages do not tell."""
    for db_alias in databases or ():
        if is_document_database(db_alias):
            engine = connections[db_alias].settings_dict["ENGINE"].rpartition(".")[2]
            if engine == "firestore" or os.environ.get(DATASTORE_EMULATOR):
                yield Warning(
                    f"Mass migrations do not need 'migrate' on database {db_alias!r}, which has no tables.",
                    hint=_DOCUMENT_DATABASES.get(engine),
                    id="massmigration.W011",
                )


def check_servers(databases: Sequence[str] | None = None, **kwargs: Any) -> Iterator[CheckMessage]:
    """Check for E013 (a server on which no batch can be committed) and W012 (its settings, or its version)."""
    for db_alias in databases or ():
        for problem in dialect_of(db_alias).server_problems():
            text = f"Database {db_alias!r}: {problem.text}."
            if problem.stops_migrations:
                yield Error(text, hint=problem.hint, id="massmigration.E013")
            else:
                yield Warning(text, hint=problem.hint, id="massmigration.W012")


def check_circles() -> Iterator[CheckMessage]:
    """Check for E002: dependencies that form a circle."""
    if not all(map(_has_pairs, store.by_key.values())):
        return
    for circle in store.circles():
        yield Error(
            f"Migrations depend on each other in a circle: {circle}.",
            hint="None of them can be launched, because each waits for another one. Remove one dependency.",
            id="massmigration.E002",
        )


def check_backends(migrations: Iterable[BaseMigration]) -> Iterator[CheckMessage]:
    """Check for E004 (a dotted path does not lead to a backend), and run the checks of the backends."""
    if any(_setting_problem(Settings, name, getattr(settings, name)) for name in ("BACKEND", "BACKEND_OPTIONS")):
        return
    if _lacks_task_queue_backend():
        return
    messages = [*_check_backend("The setting MASSMIGRATION_BACKEND", handler.get_backend)]
    for migration in migrations:
        if migration.backend or migration.queue_name or migration.backend_params:
            messages += _check_backend(f"Migration {migration.key!r}", partial(handler.backend_of, migration))
    for index, message in enumerate(messages):
        if message not in messages[:index]:  # several migrations may have the same backend
            yield message


def _check_backend(whose: str, get: Callable[[], object]) -> Iterator[CheckMessage]:
    try:
        backend = get()
        if isinstance(backend, BaseBackend):
            yield from _check_actions(whose, backend)
            yield from backend.check()
    except BadBackend as error:
        yield Error(f"{whose}: {error}", hint="Correct the path, or install its package.", id="massmigration.E004")
    except Exception as error:  # the backend's own code must not prevent other commands from running
        hint = "Check MASSMIGRATION_BACKEND_OPTIONS, and backend_params and queue_name of the migration."
        text = f"{whose}: the backend cannot be created: {described(error)}"
        yield Error(text, hint=hint, id="massmigration.E004")


def _check_actions(whose: str, backend: BaseBackend) -> Iterator[CheckMessage]:
    if problem := problem_of_actions(backend.admin_actions):
        text = f"{whose}: the backend {type(backend).__qualname__} has admin_actions {problem}."
        yield Error(text, hint="Rename them in the backend.", id="massmigration.E004")


def _setting_problem(cls: type[BaseSettings], name: str, value: Any) -> str:
    """Return what the value must be, or an empty string if the value is valid."""
    own = _core_setting_problem(name, value) if cls is Settings else cls.problem_of(name, value)
    return _type_problem(cls.defaults()[name], value) if own is None else own


def _core_setting_problem(name: str, value: Any) -> str | None:
    """Return what the value must be, or None if that follows from the type of the default."""
    if name == "RECORD_CACHE_TIMEOUT":
        if value is None:  # as long as the process lives
            return ""
        seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        return "" if is_number and seconds >= 0 else "a timedelta or a number of seconds, not negative, or None"
    if name == "MAX_FAILURE_RATE":
        return "" if value is None or is_share(value) else "a number from 0 to 1, or None"
    if name == "THROTTLE":
        is_list = isinstance(value, (list, tuple)) and all(map(_can_be_called, value))
        return "" if is_list else "a list of callables, or of dotted paths of callables"
    if name == "PACE":
        return "" if value in LEVELS else f"one of {', '.join(map(repr, LEVELS))}"
    if name == "TASK_QUEUE":
        return "" if value is None or isinstance(value, str) else "a string or None"
    return None


def _type_problem(default: Any, value: Any) -> str:
    if isinstance(default, dt.timedelta):
        return "" if isinstance(value, dt.timedelta) and value > dt.timedelta() else "a timedelta above zero"
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "True or False"
    if isinstance(default, int):
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return "" if is_int and value >= 1 else "a whole number, 1 or more"
    if isinstance(default, str):
        return "" if isinstance(value, str) and value else "a non-empty string"
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
        stages = validation.validate_methods(migration)
    except BadMigrationFile as error:
        yield Error(str(error), hint=hint, id="massmigration.E005")
        return
    except Exception as error:  # get_stages may be the user's own
        text = f"Migration {migration.key!r} raised in get_stages(): {described(error)}"
        yield Error(text, hint=hint, id="massmigration.E005")
        return
    aliases = [name for name in migration.get_allowed_db_aliases() if name in connections]
    if not aliases or not _is_run_by_engine(migration):
        return
    try:
        validation.validate_querysets(stages, aliases[0])
    except MassMigrationError as error:
        # Not an error: models change, and files of applied migrations do not.
        hint = f"It cannot be launched as it is. Correct the file, or {_DELETE}."
        yield Warning(str(error), hint=hint, id="massmigration.W005")


def _is_run_by_engine(migration: BaseMigration) -> bool:
    try:
        return isinstance(handler.backend_of(migration), BaseBackend)
    except Exception:  # reported as E004
        return False


def _lacks_task_queue_backend() -> bool:
    given = settings.given()
    return bool(given.get("TASK_QUEUE")) and not given.get("BACKEND") and not _is_installed("massmigration_djangae")


def _has_pairs(migration: BaseMigration) -> bool:
    dependencies: Any = migration.dependencies
    return isinstance(dependencies, (list, tuple)) and all(
        isinstance(each, (list, tuple)) and [type(part) for part in each] == [str, str] for each in dependencies
    )


def _bad_setting(cls: type[BaseSettings], name: str, text: str) -> Error:
    hint = f"The default is {cls.defaults()[name]!r}."
    return Error(f"{cls.prefix}{name} {text}.", hint=hint, id="massmigration.E006")


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check_requirers(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check for E010 and W006 (gates and code that require a migration without a file) and E011 (inline in atomic)."""
    known = {*store.by_key, *store.errors}
    labels = None if app_configs is None else {config.label for config in app_configs}
    gates = [gate for gate in registry.from_gates() if labels is None or gate.by_app in labels]
    code = registry.from_imported_code() if labels is None else []
    return [
        *(_unknown_gate(gate) for gate in gates if gate.key not in known),
        *(_atomic_gate(gate) for gate in gates if gate.is_inline_in_transaction),
        *(_unknown_in_code(each) for each in code if each.key not in known),
    ]


def _unknown_gate(gate: Requirer) -> CheckMessage:
    return Error(
        f"{gate.by} requires mass migration {gate.key!r}, which has no file.",
        hint="Correct the name. If the file was deleted, delete the gate from the schema migration: this does not "
        "change the state of any model.",
        id="massmigration.E010",
    )


def _atomic_gate(gate: Requirer) -> CheckMessage:
    return Error(
        f"{gate.by} has a gate with run_inline_up_to, but runs in a transaction, in which it cannot run the migration.",
        hint="Set atomic = False on the schema migration, or remove run_inline_up_to.",
        id="massmigration.E011",
    )


def _unknown_in_code(code: Requirer) -> CheckMessage:
    return Warning(
        f"{code.by} requires mass migration {code.key!r}, which has no file.",
        hint="Correct the name. If the file was deleted because it is applied everywhere, remove the requirement.",
        id="massmigration.W006",
    )


def check_outstanding(
    app_configs: Sequence[AppConfig] | None = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """Check for W007 (migrations that are not applied) and W008 (databases that cannot be queried)."""
    return [message for db_alias in databases or connections for message in _outstanding(db_alias)]


def _outstanding(db_alias: str) -> Iterator[CheckMessage]:
    wanted = [each for each in store.all if db_alias in each.get_allowed_db_aliases()]
    try:
        records = MigrationRecord.objects.using(db_alias)
        found = dict(records.values_list("key", "status")) if tables.exist(db_alias) else {}
    except DatabaseError as error:
        text = f"The status of mass migrations on database {db_alias!r} cannot be read: {str(error).strip()}"
        yield Warning(text, hint=f"Run: manage.py check --deploy --database {db_alias}", id="massmigration.W008")
        return
    requirers = registry.by_key()
    for migration in wanted:
        status = Status(found[migration.key]) if migration.key in found else None
        is_wanted = not migration.runs_only_by_name or migration.key in requirers
        if status is not Status.APPLIED and is_wanted:
            by = f"; it is required by {', '.join(requirers[migration.key])}" if migration.key in requirers else ""
            found_status = f"is {status.value}" if status else "has not been run"
            command = f"{command_for(status)} {migration.app_label} {migration.name} --database {db_alias}"
            yield Warning(
                f"Mass migration {migration.key!r} {found_status} on database {db_alias!r}{by}.",
                hint=f"Run: manage.py {command}",
                id="massmigration.W007",
            )
