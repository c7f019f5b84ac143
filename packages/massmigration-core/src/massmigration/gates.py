"""Keeps schema migrations from running ahead of the data that they need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import router, transaction
from django.db.migrations.operations.base import Operation
from django.db.models.signals import pre_migrate

from massmigration import fresh, progress, record_cache, required_by, tables
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, only_mapped
from massmigration.exceptions import BadMigrationFile, GateClosed, MassMigrationError, MigrationNotFound
from massmigration.executor.proving import remaining
from massmigration.loader import store
from massmigration.management.showing import facts_of
from massmigration.states import Status

INLINE = (None, Status.QUEUED, Status.RUNNING, Status.FAILED)
"""From where a gate runs the migration itself: not what an operator has paused or cancelled."""


class RequireMassMigration(Operation):
    """An operation of Django's schema migrations: what comes after it happens only where a mass migration is applied.

    `run_inline_up_to`: when no more rows than that are left, run it there and then. The schema migration must have
    `atomic = False`. `elidable`: squashing may leave it out.
    """

    reduces_to_sql = False
    reversible = True

    # Django's writer passes over keyword-only arguments.
    def __init__(self, app_label: str, name: str, run_inline_up_to: int | None = None, elidable: bool = False) -> None:
        self.app_label = app_label
        self.name = name
        self.run_inline_up_to = run_inline_up_to
        self.elidable = elidable  # type: ignore[misc]

    @property
    def mass_migration_key(self) -> str:
        return f"{self.app_label}:{self.name}"

    def describe(self) -> str:
        return f"Require mass migration {self.mass_migration_key}"

    @property
    def migration_name_fragment(self) -> str:
        return f"require_{self.app_label}_{self.name}".lower()

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Nothing changes."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """The second guard, when `migrate` has come here; the first is the look at its whole plan."""
        db_alias = schema_editor.connection.alias
        if not router.allow_migrate(db_alias, app_label):
            return
        look = _Look(self, db_alias, is_atomic=schema_editor.connection.in_atomic_block)
        problem = look.problem()
        if problem:
            raise GateClosed(_message(f"A schema migration of app {app_label!r}", look, problem, ()))
        if look.is_to_run:
            _run(look)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Nothing is undone: the data stays as it is."""


class _Look:
    """One gate on one database. `is_ahead`: before the schema migrations in front of it have run."""

    def __init__(self, gate: Any, db_alias: str, *, is_atomic: bool, is_ahead: bool = False) -> None:
        self.key: str = gate.mass_migration_key
        self.db_alias = db_alias
        self.has_tables = tables.exist(db_alias)
        self.status = record_cache.read_status(self.key, db_alias) if self.has_tables else None
        self.is_to_run = False
        self._limit: int | None = gate.run_inline_up_to
        self._is_atomic = is_atomic
        self._is_ahead = is_ahead

    def problem(self) -> str:
        """Why it is closed; empty if it is not, or if the migration is to be run here and now."""
        if self.status is Status.APPLIED:
            return ""
        try:
            migration = store.get(self.key)
        except (MigrationNotFound, BadMigrationFile) as error:
            if fresh.is_first(self.db_alias):
                return ""
            return f"{error} Correct the gate's name; or, if the file was deleted, delete the gate: no state changes."
        if self.db_alias not in migration.get_allowed_db_aliases():
            return ""
        if self.status is None and fresh.reason(migration, self.db_alias, looks=not self._is_ahead):
            return ""
        if self._limit is None or self.status not in INLINE or not self.has_tables:
            return self._standing()
        return self._problem_of_running(migration, self._limit)

    def _problem_of_running(self, migration: BaseMigration, limit: int) -> str:
        has_few, why = _ask(_has_at_most, migration, self.db_alias, limit)
        if has_few is None and self._is_ahead:
            has_few, why = _ask(_are_tables_small, migration, self.db_alias, limit)
        if not has_few:
            rows = f"more than {limit} rows are" if has_few is False else "it cannot be said how many rows are"
            return f"{self._standing()}; {rows} left{why}, so it is not run here"
        if self._is_atomic:
            return (
                f"{self._standing()}; it could be run here, but not in a transaction: "
                "set atomic = False on the schema migration"
            )
        self.is_to_run = True
        return ""

    def _standing(self) -> str:
        reading = progress.read(self.key, self.db_alias) if self.has_tables else None
        facts = ", ".join(facts_of(reading)) if reading else ""
        return f"it is {self.status.value if self.status else 'not run'}" + (f" ({facts})" if facts else "")


def _run(look: _Look) -> None:
    try:
        fresh.run_here(store.get(look.key), look.db_alias)
    except MassMigrationError as error:
        raise GateClosed(f"Mass migration {look.key!r} could not be run here: {error}") from error
    record_cache.forget(look.key, look.db_alias)
    reading = progress.read(look.key, look.db_alias)
    if reading is None or reading.status is not Status.APPLIED:
        outcome = f"{reading.status.value}: {reading.last_error}" if reading else "without a record"
        raise GateClosed(f"Mass migration {look.key!r} was run on database {look.db_alias!r}, and is {outcome}")


def _ask(
    look: Callable[[BaseMigration, str, int], bool | None], migration: BaseMigration, db_alias: str, limit: int
) -> tuple[bool | None, str]:
    """What it says, or None and why not: the file is the users' code, and its columns may not be there yet."""
    try:
        # A statement that fails would spoil the transaction of the schema migration.
        with transaction.atomic(using=db_alias):
            return look(migration, db_alias, limit), ""
    except Exception as error:
        return None, f" ({type(error).__name__}: {str(error).strip()})"


def _mapped(migration: BaseMigration) -> list[MappedStage]:
    """Its stages, if there are only rows to count."""
    try:
        return only_mapped(migration.get_stages())
    except BadMigrationFile:  # one that launches itself
        return []


def _has_at_most(migration: BaseMigration, db_alias: str, limit: int) -> bool | None:
    """Whether no more rows are left; None: there are none to count."""
    stages = _mapped(migration)
    if not stages:
        return None
    left = 0
    for stage in stages:
        if stage.remaining is not None:
            left += remaining(stage, db_alias)
        else:
            left += stage.rows(db_alias).order_by()[: limit + 1].count()
    return left <= limit


def _are_tables_small(migration: BaseMigration, db_alias: str, limit: int) -> bool | None:
    """Whether the tables themselves have no more rows: their columns may not be there yet."""
    querysets = [each.rows(db_alias) for each in _mapped(migration)]
    pks = [each.model._base_manager.using(db_alias).order_by().values("pk") for each in querysets]
    return sum(each[: limit + 1].count() for each in pks) <= limit if pks else None


def guard(db_alias: str, plan: Sequence[tuple[Any, bool]]) -> None:
    """Raise `GateClosed` before `migrate` changes anything, if a gate in its plan is closed."""
    if not any(True for _ in _gates(plan)) or _is_faked():
        return
    problems = []
    for migration, gate in _gates(plan):
        if router.allow_migrate(db_alias, migration.app_label):
            look = _Look(gate, db_alias, is_atomic=migration.atomic, is_ahead=True)
            if problem := look.problem():
                before = [key for key in migration.dependencies if key in _keys(plan)]
                where = f"Schema migration {migration.app_label}.{migration.name}"
                problems.append(_message(where, look, problem, before))
    if problems:
        raise GateClosed("\n".join([*problems, "Nothing was changed."]))


def _gates(plan: Sequence[tuple[Any, bool]]) -> Iterator[tuple[Any, Any]]:
    for migration, is_backwards in plan:
        if not is_backwards:
            yield from ((migration, gate) for gate in required_by.gates(migration.operations))


def _keys(plan: Sequence[tuple[Any, bool]]) -> set[tuple[str, str]]:
    return {(migration.app_label, migration.name) for migration, _ in plan}


def _message(where: str, look: _Look, problem: str, before: Sequence[tuple[str, str]]) -> str:
    """What is closed, and the commands that open it. `before`: what the schema migration depends on in the plan."""
    database = f"--database {look.db_alias}"
    first = [] if look.has_tables else ["migrate massmigration"]
    first += [f"migrate {app_label} {name}" for app_label, name in before if app_label != "massmigration"]
    commands = [*first, f"massmigrate {look.key.replace(':', ' ')}", "migrate"]
    lines = "".join(f"\n    manage.py {command} {database}" for command in commands)
    return (
        f"{where} requires mass migration {look.key!r} to be applied on database {look.db_alias!r}: {problem}. "
        f"Run:{lines}"
    )


def _is_faked() -> bool:
    """Whether the `migrate` that called us only records its migrations; the signal does not say."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        is_command = frame.f_globals.get("__name__") == "django.core.management.commands.migrate"
        if is_command and frame.f_code.co_name == "handle":
            return bool(frame.f_locals.get("options", {}).get("fake"))
    return False


def _before(sender: Any, *, using: str, plan: Sequence[tuple[Any, bool]] = (), **kwargs: Any) -> None:
    if sender.label == "massmigration":
        guard(using, plan)


def connect() -> None:
    """Called when Django's apps are ready, after `fresh` is connected, whose findings gates ask for."""
    pre_migrate.connect(_before, dispatch_uid="massmigration.gates")
