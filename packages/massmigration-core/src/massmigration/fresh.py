"""Knows what a `migrate` has made itself, and applies at once what has nothing to do there."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.db import DatabaseError, connections, router, transaction
from django.db.backends.utils import truncate_name
from django.db.migrations import operations
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models import Model
from django.db.models.signals import post_migrate, pre_migrate

from massmigration import api, tables
from massmigration.backends import handler
from massmigration.backends.immediate import ImmediateBackend
from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, only_mapped
from massmigration.exceptions import BadMigrationFile, MassMigrationError
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.recorder import events, records
from massmigration.states import Status

logger = logging.getLogger(__name__)

ACTOR = "command:migrate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One `migrate` on one database."""

    db_alias: str
    tables: frozenset[str]
    """Those that were there before."""

    created: frozenset[tuple[str, str]]
    """The models whose tables it makes, as (app label, model name), by the name that they have in the end."""

    migrated_apps: frozenset[str]
    """The apps whose schema migrations it applies."""

    is_first: bool
    """Had no schema migration been applied before?"""

    tables_at_end: frozenset[str] | None = None
    """Those that there are now, once it has ended."""


_runs: dict[str, Run] = {}


def begin(db_alias: str, plan: Sequence[tuple[Any, bool]]) -> None:
    """A `migrate` is about to begin."""
    connection = connections[db_alias]
    before = _tables(db_alias)
    _runs[db_alias] = Run(
        db_alias=db_alias,
        tables=before,
        created=frozenset(_created(plan, before, connection.ops.max_name_length())),
        migrated_apps=frozenset(migration.app_label for migration, is_backwards in plan if not is_backwards),
        is_first=not MigrationRecorder(connection).applied_migrations(),
    )


def _tables(db_alias: str) -> frozenset[str]:
    return frozenset(table.lower() for table in connections[db_alias].introspection.table_names())


def _created(plan: Sequence[tuple[Any, bool]], before: frozenset[str], max_length: int | None) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for migration, is_backwards in plan:
        label = migration.app_label
        for operation in () if is_backwards else _of_database(migration.operations):
            if isinstance(operation, operations.CreateModel) and operation.options.get("managed", True):
                table = operation.options.get("db_table") or f"{label}_{operation.name_lower}"
                found |= (
                    {(label, operation.name_lower)} if truncate_name(table, max_length).lower() not in before else set()
                )
            elif isinstance(operation, operations.DeleteModel):
                found.discard((label, operation.name_lower))
            elif isinstance(operation, operations.RenameModel) and (label, operation.old_name_lower) in found:
                found = found - {(label, operation.old_name_lower)} | {(label, operation.new_name_lower)}
    return found


def _of_database(found: Sequence[Any]) -> Iterator[Any]:
    """What changes the database: not what only the state is told."""
    for operation in found:
        if isinstance(operation, operations.SeparateDatabaseAndState):
            yield from _of_database(operation.database_operations)
        else:
            yield operation


def is_first(db_alias: str) -> bool:
    """Whether the present `migrate` is the database's first."""
    return settings.APPLY_ON_FRESH_DATABASE and db_alias in _runs and _runs[db_alias].is_first


def reason(migration: BaseMigration, db_alias: str, *, looks: bool = True) -> str:
    """Why a migration has nothing to do, as far as the present `migrate` has made its tables; empty if it may have.

    With `looks` its querysets are asked; otherwise it is what can be foreseen before the tables are there.
    """
    run = _runs.get(db_alias)
    if run is None or not settings.APPLY_ON_FRESH_DATABASE:
        return ""
    try:
        with transaction.atomic(using=db_alias):
            return _reason(migration, db_alias, run, looks=looks)
    except (DatabaseError, MassMigrationError):  # a table or column of the querysets is not there yet
        return ""
    except Exception as error:  # of the file, which is perhaps not finished: migrate goes on
        logger.warning("Mass migration %s is not applied: %s: %s", migration.key, type(error).__name__, error)
        return ""


def _reason(migration: BaseMigration, db_alias: str, run: Run, *, looks: bool) -> str:
    try:
        stages = migration.get_stages()
    except BadMigrationFile:  # one that launches itself
        stages = []
    mapped = [stage for stage in stages if isinstance(stage, MappedStage)]
    querysets = [stage.rows(db_alias) for stage in mapped]
    now = run.tables_at_end or (_tables(db_alias) if looks else None)
    if not only_mapped(stages) and not _is_app_new(migration.app_label, run, now):
        return ""
    if not all(queryset.db == db_alias and _is_made(queryset.model, run, now) for queryset in querysets):
        return ""
    if looks and any(queryset.order_by().exists() for queryset in querysets):
        return ""
    made = sorted({queryset.model._meta.db_table for queryset in querysets})
    if made:
        return f"This migrate has made {', '.join(made)}, and there is nothing in it to migrate."
    return f"This migrate has made the tables of app {migration.app_label!r}."


def _is_made(model: type[Model], run: Run, now: frozenset[str] | None) -> bool:
    """Whether the present `migrate` has made a model's table, or will. `now`: the tables there are, when it has."""
    meta = model._meta.concrete_model._meta  # type: ignore[union-attr]
    table = meta.db_table.lower()
    if table in run.tables or not meta.managed or not router.allow_migrate_model(run.db_alias, model):
        return False
    if now is not None and table not in now:
        return False
    # An app without schema migrations has its tables made all the same.
    return (meta.app_label, meta.model_name) in run.created or meta.app_label not in run.migrated_apps


def _is_app_new(app_label: str, run: Run, now: frozenset[str] | None) -> bool:
    found = [model for model in apps.get_app_config(app_label).get_models() if model._meta.managed]
    return all(_is_made(model, run, now) for model in found) if found else run.is_first


def apply(db_alias: str) -> list[str]:
    """The present `migrate` has ended: apply what has nothing to do, and return what there is to tell of it."""
    run = _runs.get(db_alias)
    if run is None or not settings.APPLY_ON_FRESH_DATABASE or not _made_anything(run):
        return []
    if not tables.belong(db_alias):
        return []
    _runs[db_alias] = dataclasses.replace(run, tables_at_end=_tables(db_alias))
    return _Applying(db_alias).apply()


def _made_anything(run: Run) -> bool:
    return run.is_first or bool(run.created) or len(run.migrated_apps) == 0


class _Applying:
    """One database."""

    def __init__(self, db_alias: str) -> None:
        self._db_alias = db_alias
        self._statuses = dict(MigrationRecord.objects.using(db_alias).values_list("key", "status"))
        self._nothing_to_do: dict[str, str] = {}
        self._faked: dict[str, str] = {}
        self._told: list[str] = []
        self._loader: MigrationLoader | None = None

    def apply(self) -> list[str]:
        for migration in store.all:
            if migration.key in self._statuses or self._db_alias not in migration.get_allowed_db_aliases():
                continue
            if any(self._statuses.get(key) != Status.APPLIED for key in migration.needed_keys):
                continue
            if why := reason(migration, self._db_alias):
                self._apply(migration, why)
        self._write()
        return self._told

    def _apply(self, migration: BaseMigration, why: str) -> None:
        if _is_mapped(migration):
            self._nothing_to_do[migration.key] = why
        elif migration.on_fresh_database == "fake":
            self._faked[migration.key] = why
        elif type(migration).launch is BaseMigration.launch and self._is_up_to_date(migration.app_label):
            self._run(migration, why)
            return
        else:
            return
        self._statuses[migration.key] = Status.APPLIED

    def _is_up_to_date(self, app_label: str) -> bool:
        """Whether no schema migration of the app is left: code that runs takes the models as they are."""
        self._loader = self._loader or MigrationLoader(connections[self._db_alias])
        return all(node in self._loader.applied_migrations for node in self._loader.graph.leaf_nodes(app_label))

    def _write(self) -> None:
        records.insert_applied(self._db_alias, self._nothing_to_do, actor=ACTOR)
        records.insert_applied(self._db_alias, self._faked, actor=ACTOR, was_faked=True)
        self._nothing_to_do, self._faked = {}, {}

    def _run(self, migration: BaseMigration, why: str) -> None:
        self._write()  # it may depend on these
        events.add(self._db_alias, migration.key, "run on fresh", actor=ACTOR, detail=why)
        run_here(migration, self._db_alias)
        record = records.get(self._db_alias, migration.key)
        self._statuses[migration.key] = record.status if record else ""
        if record is not None and record.status != Status.APPLIED:
            self._told.append(f"Mass migration {migration.key} is {record.status}: {record.last_error}")


def _is_mapped(migration: BaseMigration) -> bool:
    try:
        return bool(only_mapped(migration.get_stages()))
    except BadMigrationFile:
        return False


def run_here(migration: BaseMigration, db_alias: str) -> None:
    """Run a migration to its end in this thread: launch it, retry it if it failed, join in if it is under way."""
    record = records.get(db_alias, migration.key)
    with handler.overriding(migration.key, ImmediateBackend()):
        if record is None:
            api.launch(migration.key, db_alias, actor=ACTOR)
        elif record.status == Status.FAILED:
            api.retry(migration.key, db_alias, actor=ACTOR)
        else:
            api.send(migration.key, db_alias)


def _before(sender: Any, *, using: str, plan: Sequence[tuple[Any, bool]] = (), **kwargs: Any) -> None:
    if sender.label == "massmigration":
        begin(using, plan)


def _after(sender: Any, *, using: str, verbosity: int = 1, stdout: Any = None, **kwargs: Any) -> None:
    """Django tells every app; the last one's turn is ours, when all the others have done their work."""
    *_, last = (config for config in apps.get_app_configs() if config.models_module is not None)
    if sender is last and using in _runs:
        try:
            told = apply(using)
        finally:
            _runs.pop(using, None)
        for line in told if verbosity and stdout else ():
            stdout.write(f"{line}\n")


def connect() -> None:
    """Called when Django's apps are ready."""
    pre_migrate.connect(_before, dispatch_uid="massmigration.fresh")
    post_migrate.connect(_after, dispatch_uid="massmigration.fresh")
