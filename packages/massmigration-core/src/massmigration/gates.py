"""Gates: operations of schema migrations that require a mass migration to be applied."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import router, transaction
from django.db.migrations.operations.base import Operation
from django.db.models.signals import pre_migrate

from massmigration import fresh_database, progress, record_cache, text
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, WaitStage, only_mapped
from massmigration.documents import conditions
from massmigration.enforcement import registry
from massmigration.exceptions import BadMigrationFile, GateClosed, MassMigrationError, MigrationNotFound
from massmigration.executor.completion import count_remaining
from massmigration.loader import store
from massmigration.paging.querysets import all_rows
from massmigration.recorder import tables
from massmigration.states import Status, command_for

INLINE = (None, Status.QUEUED, Status.RUNNING, Status.FAILED)
"""Statuses in which a gate may run the migration itself: not paused or cancelled by an operator."""


class RequireMassMigration(Operation):
    """An operation for schema migrations. The operations after it run only if a mass migration is applied.

    `run_inline_up_to`: if at most this many rows are left, run it inside `migrate`. The schema migration
    must have `atomic = False`. `elidable`: whether squashing migrations removes the gate.
    """

    reduces_to_sql = False
    reversible = True

    # Django's migration writer ignores keyword-only arguments.
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
        """Leave the state alone."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Raise `GateClosed` if the gate is closed, also where `guard()` did not see it before `migrate` began."""
        db_alias = schema_editor.connection.alias
        if not router.allow_migrate(db_alias, app_label):
            return
        check = _GateCheck(self, db_alias, is_atomic=schema_editor.connection.in_atomic_block)
        problem = check.problem()
        if problem:
            raise GateClosed(_message(f"A schema migration of app {app_label!r}", check, problem, ()))
        if check.is_to_run:
            _run(check)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Leave the data as it is."""


class _GateCheck:
    """The check of one gate on one database.

    `is_ahead`: whether the schema migrations before the gate have still to run.
    """

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
        """Return why the gate is closed, or an empty string if it is open or is to run the migration itself."""
        if self.status is Status.APPLIED:
            return ""
        try:
            migration = store.get(self.key)
        except (MigrationNotFound, BadMigrationFile) as error:
            if fresh_database.is_first(self.db_alias):
                return ""
            return (
                f"{error} Correct the name in the gate. If the file was deleted, delete the gate from the schema "
                "migration; this does not change the state of any model"
            )
        if self.db_alias not in migration.get_allowed_db_aliases():
            return ""
        if self.status is None and fresh_database.nothing_to_do_reason(
            migration, self.db_alias, with_queries=not self._is_ahead
        ):
            return ""
        if self._limit is None or self.status not in INLINE or not self.has_tables:
            return self._state()
        return self._problem_of_running(migration, self._limit)

    def _problem_of_running(self, migration: BaseMigration, limit: int) -> str:
        if _waits(migration):
            return f"{self._state()}; one of its stages waits for an operator, so migrate does not run it"
        has_few, why = _ask(_has_at_most, migration, self.db_alias, limit)
        if has_few is None and self._is_ahead:
            has_few, why = _ask(_are_tables_small, migration, self.db_alias, limit)
        if not has_few:
            rows = (
                f"more than {text.counted(limit, 'row')} left"
                if has_few is False
                else "the rows that are left cannot be counted"
            )
            return f"{self._state()}; {rows}{why}, so migrate does not run it"
        if self._is_atomic:
            return (
                f"{self._state()}; migrate could run it, but not in a transaction: "
                "set atomic = False on the schema migration"
            )
        self.is_to_run = True
        return ""

    def _state(self) -> str:
        current = progress.read(self.key, self.db_alias) if self.has_tables else None
        facts = progress.describe(current) if current else ""
        found = f"it is {self.status.value}" if self.status else "it has not been run"
        return found + (f" ({facts})" if facts else "")


def _run(check: _GateCheck) -> None:
    try:
        fresh_database.run_inline(store.get(check.key), check.db_alias)
    except MassMigrationError as error:
        raise GateClosed(f"Mass migration {check.key!r} could not be run by migrate: {error}") from error
    record_cache.forget(check.key, check.db_alias)
    current = progress.read(check.key, check.db_alias)
    if current is None or current.status is not Status.APPLIED:
        outcome = f"{current.status.value}: {current.last_error}" if current else "without a record"
        raise GateClosed(
            f"Mass migration {check.key!r} was run by migrate on database {check.db_alias!r}, and is {outcome}"
        )


def _ask(
    check: Callable[[BaseMigration, str, int], bool | None], migration: BaseMigration, db_alias: str, limit: int
) -> tuple[bool | None, str]:
    """Return the answer, or None and why there is none: users' code raised, or a column does not exist yet."""
    try:
        # Without a savepoint, a statement that fails would break the transaction of the schema migration.
        with transaction.atomic(using=db_alias):
            return check(migration, db_alias, limit), ""
    except Exception as error:
        return None, f" ({text.described(error)})"


def _waits(migration: BaseMigration) -> bool:
    try:
        return any(isinstance(stage, WaitStage) for stage in migration.get_stages())
    except Exception:  # of users' code; counting the rows reports it
        return False


def _mapped(migration: BaseMigration) -> list[MappedStage]:
    """Return the stages if all of their work is in rows that can be counted, else an empty list."""
    try:
        return only_mapped(migration.get_stages())
    except BadMigrationFile:  # an unmanaged migration
        return []


def _has_at_most(migration: BaseMigration, db_alias: str, limit: int) -> bool | None:
    """Return whether at most `limit` rows are left, or None if there are no rows to count."""
    stages = _mapped(migration)
    if not stages:
        return None
    left = 0
    for stage in stages:
        if stage.remaining is not None:
            left += count_remaining(stage, db_alias)
        else:
            left += conditions.count(stage.rows(db_alias), limit + 1)
    return left <= limit


def _are_tables_small(migration: BaseMigration, db_alias: str, limit: int) -> bool | None:
    """Return whether the tables have at most `limit` rows in all. This needs no column except the primary key."""
    querysets = [each.rows(db_alias) for each in _mapped(migration)]
    pks = [all_rows(each.model, db_alias).order_by().values("pk") for each in querysets]
    return sum(each[: limit + 1].count() for each in pks) <= limit if pks else None


def guard(db_alias: str, plan: Sequence[tuple[Any, bool]]) -> None:
    """Raise `GateClosed` if a gate in the plan of `migrate` is closed, before `migrate` changes anything."""
    if not any(True for _ in _gates(plan)) or _is_faked():
        return
    problems = []
    for migration, gate in _gates(plan):
        if router.allow_migrate(db_alias, migration.app_label):
            check = _GateCheck(gate, db_alias, is_atomic=migration.atomic, is_ahead=True)
            if problem := check.problem():
                before = [key for key in migration.dependencies if key in _keys(plan)]
                where = f"Schema migration {migration.app_label}.{migration.name}"
                problems.append(_message(where, check, problem, before))
    if problems:
        raise GateClosed("\n".join([*problems, "Nothing was changed."]))


def _gates(plan: Sequence[tuple[Any, bool]]) -> Iterator[tuple[Any, Any]]:
    for migration, is_backwards in plan:
        if not is_backwards:
            yield from ((migration, gate) for gate in registry.gates(migration.operations))


def _keys(plan: Sequence[tuple[Any, bool]]) -> set[tuple[str, str]]:
    return {(migration.app_label, migration.name) for migration, _ in plan}


def _message(where: str, check: _GateCheck, problem: str, before: Sequence[tuple[str, str]]) -> str:
    """Return why a gate is closed, and the commands that open it.

    `before`: the dependencies of the schema migration that are in the plan, too.
    """
    database = f"--database {check.db_alias}"
    first = [] if check.has_tables else ["migrate massmigration"]
    first += [f"migrate {app_label} {name}" for app_label, name in before if app_label != "massmigration"]
    commands = [*first, f"{command_for(check.status)} {check.key.replace(':', ' ')}", "migrate"]
    lines = "".join(f"\n    manage.py {command} {database}" for command in commands)
    return (
        f"{where} requires mass migration {check.key!r} to be applied on database {check.db_alias!r}: {problem}. "
        f"Run, in this order:{lines}"
    )


def _is_faked() -> bool:
    """Return whether `migrate` was called with `--fake`, which its signals do not tell."""
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
    """Connect the receiver. Called when Django's apps are ready, after `fresh_database`, which gates need."""
    pre_migrate.connect(_before, dispatch_uid="massmigration.gates")
