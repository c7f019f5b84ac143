"""Migrations on a new database: those without work are applied after `migrate` has created the tables."""

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

from massmigration import api, text
from massmigration.backends import handler
from massmigration.backends.immediate import ImmediateBackend
from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, Stage, WaitStage, only_mapped, without_waits
from massmigration.exceptions import BadMigrationFile, MassMigrationError
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.recorder import events, records, tables
from massmigration.states import Status

logger = logging.getLogger(__name__)

ACTOR = "command:migrate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MigrateRun:
    """One run of `migrate` on one database."""

    db_alias: str
    tables: frozenset[str]
    """The tables that existed before."""

    created: frozenset[tuple[str, str]]
    """The models whose tables it creates, as (app label, model name) with their final names."""

    migrated_apps: frozenset[str]
    """The apps whose schema migrations it applies."""

    is_first: bool
    """Whether no schema migration had been applied before."""

    tables_at_end: frozenset[str] | None = None
    """The tables that exist after it has ended; None while it runs."""


_runs: dict[str, MigrateRun] = {}


def begin(db_alias: str, plan: Sequence[tuple[Any, bool]]) -> None:
    """Record that a `migrate` with this plan is about to start."""
    connection = connections[db_alias]
    before = _tables(db_alias)
    _runs[db_alias] = MigrateRun(
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
        for operation in () if is_backwards else _database_operations(migration.operations):
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


def _database_operations(found: Sequence[Any]) -> Iterator[Any]:
    """Yield the operations that change the database, and not only the state."""
    for operation in found:
        if isinstance(operation, operations.SeparateDatabaseAndState):
            yield from _database_operations(operation.database_operations)
        else:
            yield operation


def is_first(db_alias: str) -> bool:
    """Return whether the running `migrate` is the first on the database."""
    return settings.APPLY_ON_FRESH_DATABASE and db_alias in _runs and _runs[db_alias].is_first


def nothing_to_do_reason(migration: BaseMigration, db_alias: str, *, with_queries: bool = True) -> str:
    """Return why a migration has nothing to do, because the running `migrate` creates its tables, or an empty string.

    `with_queries`: check that the migration's querysets are empty. Without it, nothing is queried, as before the tables
    exist.
    """
    run = _runs.get(db_alias)
    if run is None or not settings.APPLY_ON_FRESH_DATABASE:
        return ""
    try:
        with transaction.atomic(using=db_alias):
            return _nothing_to_do_reason(migration, db_alias, run, with_queries=with_queries)
    except (DatabaseError, MassMigrationError):  # a table or column of the querysets does not exist yet
        return ""
    except Exception as error:  # users' code, perhaps unfinished, must not end migrate
        reason = text.line(text.described(error))
        logger.warning("Mass migration %s was not marked as applied on the new tables: %s", migration.key, reason)
        return ""


def _nothing_to_do_reason(migration: BaseMigration, db_alias: str, run: MigrateRun, *, with_queries: bool) -> str:
    try:
        stages = migration.get_stages()
    except BadMigrationFile:  # an unmanaged migration
        stages = []
    mapped = [stage for stage in stages if isinstance(stage, MappedStage)]
    querysets = [stage.rows(db_alias) for stage in mapped]
    now = run.tables_at_end or (_tables(db_alias) if with_queries else None)
    if not only_mapped(without_waits(stages)) and not _is_app_new(migration.app_label, run, now):
        return ""
    if not all(queryset.db == db_alias and _is_created(queryset.model, run, now) for queryset in querysets):
        return ""
    if with_queries and any(queryset.order_by().exists() for queryset in querysets):
        return ""
    created = sorted({queryset.model._meta.db_table for queryset in querysets})
    if created:
        return f"This migrate has created {', '.join(created)}, which contains nothing to migrate."
    return f"This migrate has created the tables of app {migration.app_label!r}."


def _is_created(model: type[Model], run: MigrateRun, now: frozenset[str] | None) -> bool:
    """Return whether the running `migrate` creates the model's table.

    `now`: the tables that exist, once it has created them.
    """
    meta = model._meta.concrete_model._meta  # type: ignore[union-attr]
    table = meta.db_table.lower()
    if table in run.tables or not meta.managed or not router.allow_migrate_model(run.db_alias, model):
        return False
    if now is not None and table not in now:
        return False
    # migrate creates the tables of an app without schema migrations, too.
    return (meta.app_label, meta.model_name) in run.created or meta.app_label not in run.migrated_apps


def _is_app_new(app_label: str, run: MigrateRun, now: frozenset[str] | None) -> bool:
    found = [model for model in apps.get_app_config(app_label).get_models() if model._meta.managed]
    return all(_is_created(model, run, now) for model in found) if found else run.is_first


def apply(db_alias: str) -> list[str]:
    """Apply the migrations that have nothing to do, after `migrate` has ended. Return lines to print."""
    run = _runs.get(db_alias)
    if run is None or not settings.APPLY_ON_FRESH_DATABASE or not _has_created_anything(run):
        return []
    if not tables.belong(db_alias):
        return []
    _runs[db_alias] = dataclasses.replace(run, tables_at_end=_tables(db_alias))
    return _FreshDatabase(db_alias).apply()


def _has_created_anything(run: MigrateRun) -> bool:
    return run.is_first or bool(run.created) or len(run.migrated_apps) == 0


class _FreshDatabase:
    """A database on which `migrate` has just created tables."""

    def __init__(self, db_alias: str) -> None:
        self._db_alias = db_alias
        self._statuses = dict(MigrationRecord.objects.using(db_alias).values_list("key", "status"))
        self._nothing_to_do: dict[str, str] = {}
        self._faked: dict[str, str] = {}
        self._lines: list[str] = []
        self._loader: MigrationLoader | None = None

    def apply(self) -> list[str]:
        for migration in store.all:
            if migration.key in self._statuses or self._db_alias not in migration.get_allowed_db_aliases():
                continue
            if any(self._statuses.get(key) != Status.APPLIED for key in migration.needed_keys):
                continue
            if why := nothing_to_do_reason(migration, self._db_alias):
                self._apply(migration, why)
        self._write()
        return self._lines

    def _apply(self, migration: BaseMigration, why: str) -> None:
        if _is_mapped(migration):
            self._nothing_to_do[migration.key] = why
        elif migration.on_fresh_database == "fake":
            self._faked[migration.key] = why
        elif _can_run(migration) and self._is_up_to_date(migration.app_label):
            self._run(migration, why)
            return
        else:
            return
        self._statuses[migration.key] = Status.APPLIED

    def _is_up_to_date(self, app_label: str) -> bool:
        """Return whether all schema migrations of the app are applied. Code needs the models in their final state."""
        self._loader = self._loader or MigrationLoader(connections[self._db_alias])
        return all(node in self._loader.applied_migrations for node in self._loader.graph.leaf_nodes(app_label))

    def _write(self) -> None:
        records.insert_applied(self._db_alias, self._nothing_to_do, actor=ACTOR)
        records.insert_applied(self._db_alias, self._faked, actor=ACTOR, was_faked=True)
        self._nothing_to_do, self._faked = {}, {}

    def _run(self, migration: BaseMigration, why: str) -> None:
        self._write()  # the migration may depend on these
        events.add(self._db_alias, migration.key, "run on fresh", actor=ACTOR, detail=why)
        run_inline(migration, self._db_alias)
        record = records.get(self._db_alias, migration.key)
        self._statuses[migration.key] = record.status if record else ""
        if record is not None and record.status != Status.APPLIED:
            self._lines.append(f"Mass migration {migration.key} is {record.status}: {record.last_error}")


def _is_mapped(migration: BaseMigration) -> bool:
    """Return whether the migration has nothing to do without rows. There is nothing for an operator to confirm then."""
    return bool(only_mapped(without_waits(_stages(migration))))


def _can_run(migration: BaseMigration) -> bool:
    """Return whether `migrate` may run the migration, and can run it to its end without an operator."""
    waits = any(isinstance(stage, WaitStage) for stage in _stages(migration))
    return not (waits or migration.runs_only_by_name) and type(migration).launch is BaseMigration.launch


def _stages(migration: BaseMigration) -> Sequence[Stage]:
    try:
        return migration.get_stages()
    except BadMigrationFile:
        return []


def run_inline(migration: BaseMigration, db_alias: str) -> None:
    """Run a migration to its end in this thread. Launch it, retry it if it has failed, or join it if it is running."""
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
    """Apply migrations after the last app's signal: Django sends one for each app, and receivers create rows."""
    *_, last = (config for config in apps.get_app_configs() if config.models_module is not None)
    if sender is last and using in _runs:
        try:
            lines = apply(using)
        finally:
            _runs.pop(using, None)
        for line in lines if verbosity and stdout else ():
            stdout.write(f"{line}\n")


def connect() -> None:
    """Connect the receivers. Called when Django's apps are ready."""
    pre_migrate.connect(_before, dispatch_uid="massmigration.fresh_database")
    post_migrate.connect(_after, dispatch_uid="massmigration.fresh_database")
