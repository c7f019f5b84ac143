"""The chaos kit: runs a project's migration on its rows under faults, and says what goes wrong and why.

Call `assert_survives`, or one of its parts, in a test of the project.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.core import mail
from django.db.models import BooleanField, CharField, DateField, Field, IntegerField, Model, TextField, TimeField

from massmigration import api
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, Stage
from massmigration.executor.processors import can_shrink
from massmigration.loader import store
from massmigration.models import ShardRecord
from massmigration.states import Status
from massmigration.testing import faults
from massmigration.testing.engine_runs import Faults, Run, clock_at
from massmigration.testing.rows import Difference, Rows, models_of, sets_itself

NOW = dt.datetime(2031, 5, 14, 9, 26, 53, tzinfo=dt.timezone.utc)
LATER = NOW + dt.timedelta(days=400, hours=5)
SHOWN = 3
"""The number of differing objects that a report shows for each cause."""

FAULTS = (
    "kill",
    "duplicate_delivery",
    "lost_message",
    "concurrent_edit",
    "concurrent_delete",
    "insert_behind",
    "poison_row",
)
"""The faults that `assert_tolerates` takes."""

NOT_IDEMPOTENT = "not idempotent"
OVERWRITES = "save() overwrote a concurrent edit"
RESURRECTS = "save() inserted a deleted row again"
EFFECT = "effect before the commit"
ORDER = "depends on the order of rows or on the batches"
MEMORY = "keeps state in memory"
SWALLOWS = "swallows its own error"
CLOCK = "reads the clock"
RANDOM = "gives another result in each run"
BEHIND = "leaves out a row that was inserted behind the cursor"
FAILS = "does not recover"
REPEATS = "repeats work"

ADVICE = {
    NOT_IDEMPOTENT: "Compute the new value from fields that the migration does not change, or leave processed rows out "
    "of get_queryset(). Pass idempotent=False if the migration is never restarted and atomic is True.",
    OVERWRITES: "Write only what the operation changes: update_fields, save(update_fields=[...]) or "
    "queryset.update(). Lock rows that you read: select_for_update().",
    RESURRECTS: "Use save(update_fields=[...]), update_fields of the migration, or queryset.update().",
    EFFECT: "A batch that is rolled back is called again. Pass the effect to transaction.on_commit(), or set "
    "atomic = False and make it repeatable.",
    ORDER: "Compute each row from its own values. Use a second stage for what needs all rows.",
    MEMORY: "Each job may run in another process. Keep in the database what must last.",
    SWALLOWS: "Let the exception out of the operation, so that the engine records the failed object.",
    CLOCK: "Take a constant, or a field of the row.",
    RANDOM: "Compute the value from the row, for example a hash of its key, unless any value will do.",
    BEHIND: "Processed rows leave the queryset, so a further pass should find the row; see catch_up.",
    FAILS: "See the error of the record.",
    REPEATS: "Set atomic = True, or make each effect repeatable.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a migration."""

    cause: str
    check: str
    """The check that found it, such as `kill` or `idempotent`."""

    details: tuple[str, ...]

    def __str__(self) -> str:
        more = len(self.details) - SHOWN
        shown = [f"    {detail}" for detail in self.details[:SHOWN]]
        rest = [f"    ... and {more} more"] if more > 0 else []
        return "\n".join([f"{self.cause} (found by: {self.check})", *shown, *rest, f"    {ADVICE[self.cause]}"])


@dataclasses.dataclass(kw_only=True)
class Report:
    """What the checks have found."""

    key: str
    problems: list[Problem] = dataclasses.field(default_factory=list)
    passed: list[str] = dataclasses.field(default_factory=list)
    not_tested: dict[str, str] = dataclasses.field(default_factory=dict)
    """The checks that do not apply, with the reason."""

    @property
    def causes(self) -> list[str]:
        return [problem.cause for problem in self.problems]

    def __str__(self) -> str:
        lines = [f"Migration {self.key} has {len(self.problems)} problems:" if self.problems else f"{self.key}: good."]
        lines += [f"{number}. {problem}" for number, problem in enumerate(self.problems, 1)]
        lines += [f"Passed: {', '.join(self.passed) or 'nothing'}."]
        lines += [f"Not tested: {name}, because {reason}." for name, reason in self.not_tested.items()]
        return "\n".join(lines)


def assert_survives(
    migration: Any,
    *,
    make_rows: Callable[..., Any],
    oracle: Callable[..., Any] | None = None,
    db_alias: str = api.DEFAULT,
    idempotent: bool = True,
) -> Report:
    """Run the migration under every fault, and compare each run with a run without faults.

    `migration`: the class, or the key of a migration of the project.
    `make_rows`: creates the rows; called once, with `db_alias` if it has a parameter of this name.
    `oracle`: returns what else must be the same after each run, such as the number of calls of a service.
    `idempotent`: whether a second run must change nothing.

    Raise `AssertionError` with a report. The tables that the migration writes are emptied and filled again.
    """
    checks = ["effects", "deterministic", "clock", "resumable", "order", *FAULTS]
    return _checked(migration, [*checks, *(["idempotent"] if idempotent else [])], make_rows, oracle, db_alias)


def assert_idempotent(
    migration: Any,
    *,
    make_rows: Callable[..., Any],
    oracle: Callable[..., Any] | None = None,
    db_alias: str = api.DEFAULT,
) -> Report:
    """Run the migration twice. The second run must change nothing."""
    return _checked(migration, ["idempotent"], make_rows, oracle, db_alias)


def assert_resumable(
    migration: Any,
    *,
    make_rows: Callable[..., Any],
    oracle: Callable[..., Any] | None = None,
    db_alias: str = api.DEFAULT,
) -> Report:
    """Pause and resume the migration again and again, each time in a new worker."""
    return _checked(migration, ["resumable"], make_rows, oracle, db_alias)


def assert_tolerates(
    migration: Any,
    *names: str,
    make_rows: Callable[..., Any],
    oracle: Callable[..., Any] | None = None,
    db_alias: str = api.DEFAULT,
) -> Report:
    """Run the migration under the named faults, or under all of `FAULTS`."""
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise ValueError(f"Found the fault {unknown[0]!r}; allowed: {', '.join(FAULTS)}.")
    return _checked(migration, names or FAULTS, make_rows, oracle, db_alias)


def _checked(
    migration: Any,
    checks: Iterable[str],
    make_rows: Callable[..., Any],
    oracle: Callable[..., Any] | None,
    db_alias: str,
) -> Report:
    trial = Trial(migration, make_rows, oracle, db_alias)
    report = trial.report
    if trial.begin():
        for check in checks:
            found = list(getattr(trial, f"check_{check}")())
            report.problems += found
            if not found and check not in report.not_tested:
                report.passed.append(check)
    if report.problems:
        raise AssertionError(str(report))
    return report


class Trial:
    """A migration, its rows, and the result of its run without faults."""

    def __init__(
        self, migration: Any, make_rows: Callable[..., Any], oracle: Callable[..., Any] | None, db_alias: str
    ) -> None:
        self._cls, self._key = _resolved(migration)
        self._make_rows = make_rows
        self._oracle = oracle
        self._db_alias = db_alias
        self.report = Report(key=self._key)
        self._unstable: set[tuple[str, str]] = set()
        """The fields whose values differ between runs for a known reason: label and name."""

    # The runs

    def begin(self) -> bool:
        """Make the rows, and run the migration without faults. Return whether it was applied."""
        with store.registered():
            self._stage = self._mapped()
            self._model, self._can_shrink = self._target()
        self._models = models_of(self._db_alias)
        if self._model:
            self._models[self._model._meta.db_table] = self._model
        self._call(self._make_rows)
        self._initial = Rows.read(self._db_alias, self._models.values())
        self._touched = [model for model in self._models.values() if self._initial.of(model)]
        self._good = self._run(Faults(), is_first=True)
        written = {self._models[table] for table in self._good.written if table in self._models}
        # In the order of the apps, so that rows are inserted after those that they refer to.
        rows_of_stage = {self._model} if self._model else set()
        self._touched = [model for model in self._models.values() if model in written | rows_of_stage]
        self._after = self._read()
        self._said = self._asked()
        if self._good.status == Status.APPLIED:
            return True
        details = (f"The run without faults is {self._good.status}: {self._good.record.last_error}",)
        self.report.problems.append(Problem(cause=FAILS, check="the run without faults", details=details))
        return False

    def _mapped(self) -> MappedStage | None:
        """Return the first mapped stage."""
        app_label, _, name = self._key.partition(":")
        stages: list[Stage] = list(self._cls(app_label, name).get_stages())
        return next((stage for stage in stages if isinstance(stage, MappedStage)), None)

    def _target(self) -> tuple[type[Model] | None, bool]:
        """Return the model of the first mapped stage, and whether processed rows may leave its queryset."""
        if self._stage is None:
            return None, False
        queryset = self._stage.rows(self._db_alias, is_quiet=True)
        return queryset.model._meta.concrete_model or queryset.model, can_shrink(self._stage, queryset)

    def _pks(self) -> list[Any]:
        """Return the keys of the rows that the run without faults has changed, or all keys, in their order."""
        if self._model is None:
            return []
        before, after = self._initial.of(self._model), self._after.of(self._model)
        changed = [pk for pk, values in before.items() if after.get(pk) != values]
        return changed or list(before)

    def _run(self, injected: Faults, *, is_first: bool = False, **options: Any) -> Run:
        clock = options.pop("clock", NOW)
        if not is_first:
            (options.pop("rows", None) or self._initial).restore(self._db_alias, self._touched)
        if hasattr(mail, "outbox"):
            mail.outbox.clear()
        run = Run(self._cls, self._key, self._db_alias, **options)
        return run.go(injected, clock=clock)

    def _read(self) -> Rows:
        return Rows.read(self._db_alias, self._touched)

    def _asked(self) -> Any:
        return self._call(self._oracle) if self._oracle else None

    def _call(self, function: Callable[..., Any]) -> Any:
        takes_alias = "db_alias" in inspect.signature(function).parameters
        return function(db_alias=self._db_alias) if takes_alias else function()

    def _differences(self, expected: Rows | None = None) -> list[Difference]:
        found = (expected or self._after).differences(self._read(), self._initial)
        return [each for each in found if (each.label, each.field) not in self._unstable]

    def _problems(self, check: str, cause: str, run: Run, *, of_oracle: str = EFFECT) -> Iterator[Problem]:
        """Yield what differs from the run without faults."""
        if run.status != Status.APPLIED:
            yield Problem(cause=FAILS, check=check, details=(f"It is {run.status}: {run.record.last_error}",))
            return
        if found := self._differences():
            yield Problem(cause=cause, check=check, details=tuple(map(str, found)))
        elif (said := self._asked()) != self._said:
            yield Problem(cause=of_oracle, check=check, details=(f"oracle() is {said!r}, expected {self._said!r}",))

    def _leave_out(self, check: str, reason: str) -> Iterator[Problem]:
        self.report.not_tested[check] = reason
        yield from ()

    # The checks, in the order in which `assert_survives` makes them

    def check_effects(self) -> Iterator[Problem]:
        """Look for effects outside the database within transactions."""
        found = dict.fromkeys(effect.what for effect in self._good.effects if effect.is_in_transaction)
        if found:
            details = tuple(f"The operation {what} before its batch was committed" for what in found)
            yield Problem(cause=EFFECT, check="effects", details=details)

    def check_deterministic(self) -> Iterator[Problem]:
        """Run it again in the same way."""
        yield from self._repeatable("deterministic", RANDOM, self._run(Faults()))

    def check_clock(self) -> Iterator[Problem]:
        """Run it at another time."""
        yield from self._repeatable("clock", CLOCK, self._run(Faults(), clock=LATER))

    def _repeatable(self, check: str, cause: str, run: Run) -> Iterator[Problem]:
        if run.status == Status.APPLIED and (found := self._differences()):
            self._unstable |= {(each.label, each.field) for each in found}
            cause = CLOCK if all(self._is_time(each) for each in found) else cause
            yield Problem(cause=cause, check=check, details=tuple(map(str, found)))
        else:
            yield from self._problems(check, cause, run)

    def _is_time(self, found: Difference) -> bool:
        model = next((model for model in self._touched if model._meta.label == found.label), None)
        if model is None or found.pk is None or found.kind != "changed":
            return False
        return isinstance(model._meta.get_field(found.field), (DateField, TimeField))

    def check_resumable(self) -> Iterator[Problem]:
        """Pause and resume it, and continue in a new worker each time."""
        yield from self._problems("resumable", MEMORY, self._run(faults.Pauses()))

    def check_order(self) -> Iterator[Problem]:
        """Process the shards in another order, in small batches."""
        if MEMORY in self.report.causes:
            return self._leave_out("order", "the result depends on what the migration keeps in memory")
        return self._problems("order", ORDER, self._run(faults.LastFirst(), batch=7))

    def check_kill(self) -> Iterator[Problem]:
        """Kill workers at statements of the operation and of the engine."""
        run = self._run(faults.Kill(self._good.statements))
        is_atomic = all(stage.atomic for stage in self._stages())
        yield from self._problems("kill", MEMORY if is_atomic else NOT_IDEMPOTENT, run)

    def _stages(self) -> list[Stage]:
        app_label, _, name = self._key.partition(":")
        return list(self._cls(app_label, name).get_stages())

    def check_duplicate_delivery(self) -> Iterator[Problem]:
        """Deliver each job twice."""
        yield from self._problems("duplicate_delivery", REPEATS, self._run(faults.DuplicateDelivery()))

    def check_lost_message(self) -> Iterator[Problem]:
        """Lose jobs."""
        yield from self._problems("lost_message", REPEATS, self._run(faults.LostMessage()))

    def check_idempotent(self) -> Iterator[Problem]:
        """Run it again over the rows that it has processed."""
        self._run(Faults())
        run = Run(self._cls, self._key, self._db_alias).go(Faults(), clock=NOW)
        yield from self._problems("idempotent", NOT_IDEMPOTENT, run, of_oracle=NOT_IDEMPOTENT)

    def check_concurrent_edit(self) -> Iterator[Problem]:
        """Edit a field that the migration leaves alone, while it runs."""
        fields = self._untouched_fields()
        if not fields:
            return self._leave_out("concurrent_edit", "the migration leaves no field alone that an edit could change")
        return self._edited(fields)

    def _edited(self, fields: dict[type[Model], Field[Any, Any]]) -> Iterator[Problem]:
        injected = faults.ConcurrentEdit(fields, self._by_table(), self._pks()[-faults.MOST_INJECTED :])
        run = self._retried(self._run(injected))
        if run.status != Status.APPLIED:
            yield from self._problems("concurrent_edit", FAILS, run)
            return
        found = self._read()
        lost = [
            f"{model._meta.label} {pk}: {field.name} was set to {value!r} while the migration ran, and is "
            f"{found.of(model)[pk][field.attname]!r}"
            for (model, pk), (field, value) in injected.edited.items()
            if pk in found.of(model) and found.of(model)[pk][field.attname] != value
        ]
        if lost:
            yield Problem(cause=OVERWRITES, check="concurrent_edit", details=tuple(lost))

    def check_concurrent_delete(self) -> Iterator[Problem]:
        """Delete rows while it runs."""
        ahead = self._pks()[-faults.MOST_INJECTED :]
        injected = faults.ConcurrentDelete(self._by_table(), self._model, ahead)
        run = self._retried(self._run(injected))
        if run.status != Status.APPLIED:
            yield from self._problems("concurrent_delete", FAILS, run)
            return
        found = self._read()
        back = [
            f"{model._meta.label} {pk} was deleted while the migration ran, and exists again"
            for model, pk in injected.deleted
            if pk in found.of(model)
        ]
        if back:
            yield Problem(cause=RESURRECTS, check="concurrent_delete", details=tuple(back))

    def check_insert_behind(self) -> Iterator[Problem]:
        """Insert a row behind the cursor."""
        model = self._model
        pk = next((pk for pk in self._pks()[1:] if self._is_free(pk)), None) if model else None
        if model is None or pk is None or model._meta.parents:
            return self._leave_out("insert_behind", "no row can be left out and inserted later")
        return self._inserted(model, pk)

    def _inserted(self, model: type[Model], pk: Any) -> Iterator[Problem]:
        values = self._initial.of(model)[pk]
        injected = faults.InsertBehind(model, pk, values)
        run = self._run(injected, rows=self._initial.without(model, pk))
        if run.status != Status.APPLIED or not injected.is_inserted:
            yield from self._problems("insert_behind", FAILS, run)
            return
        found = self._differences()
        of_row = [each for each in found if (each.label, each.pk) == (model._meta.label, pk)]
        shards = ShardRecord.objects.using(self._db_alias).filter(record_id=self._key)
        has_passes = self._can_shrink and not shards.filter(still_matched=True).exists()
        if of_row and has_passes:
            yield Problem(cause=BEHIND, check="insert_behind", details=tuple(map(str, of_row)))
        # Created rows have no fixed keys, and one may be missing for the row that was inserted.
        others = [each for each in found if each not in of_row and each.pk is not None]
        if others:
            yield Problem(cause=ORDER, check="insert_behind", details=tuple(map(str, others)))

    def check_poison_row(self) -> Iterator[Problem]:
        """Make the operation raise for some rows, then retry without that."""
        pks, model = self._pks(), self._model
        if model is None or not pks:
            return self._leave_out("poison_row", "no stage is mapped over rows")
        return self._poisoned(model, sorted({len(pks) // 3, 2 * len(pks) // 3}), pks)

    def _poisoned(self, model: type[Model], places: list[int], pks: list[Any]) -> Iterator[Problem]:
        bad = [pks[place] for place in places]
        injected = faults.PoisonRow(bad, model)
        run = self._run(injected)
        for _ in places:
            if run.status == Status.FAILED:
                injected.heal()
                run = self._retried(run, injected)
        found = self._differences() if run.status == Status.APPLIED else []
        lost = [str(each) for each in found if each.pk in injected.swallowed or each.pk is None]
        if run.status == Status.FAILED:
            lost.append(run.record.last_error)
        if injected.swallowed and lost:
            named = ", ".join(map(str, sorted(injected.swallowed, key=str)))
            first = f"The operation raised for {model._meta.label} {named}, caught the exception, and returned"
            yield Problem(cause=SWALLOWS, check="poison_row", details=(first, *lost))
        else:
            cause = EFFECT if any(not stage.atomic for stage in self._stages()) else MEMORY
            yield from self._problems("poison_row", cause, run)

    def _retried(self, run: Run, injected: Faults | None = None) -> Run:
        """Retry a migration that has failed."""
        if run.status == Status.FAILED:
            with clock_at(NOW, self._cls):
                run.again(api.retry, injected)
        return run

    # What the faults work with

    def _by_table(self) -> dict[str, type[Model]]:
        return {table: model for table, model in self._models.items() if self._initial.of(model)}

    def _untouched_fields(self) -> dict[type[Model], Field[Any, Any]]:
        """Return a field of each model that the run without faults has not changed, and that an edit can change."""
        found: dict[type[Model], Field[Any, Any]] = {}
        mine = [self._model] if self._model else []
        for model in [*mine, *self._touched]:
            for field in model._meta.local_concrete_fields:
                if model not in found and self._can_edit(model, field):
                    found[model] = field
        return found

    def _can_edit(self, model: type[Model], field: Field[Any, Any]) -> bool:
        is_plain = isinstance(field, (BooleanField, CharField, IntegerField, TextField))
        if not is_plain or field.primary_key or field.unique or field.is_relation or sets_itself(field):
            return False
        return not field.choices and bool(self._initial.of(model)) and self._initial.equal_in(self._after, model, field)

    def _is_free(self, pk: Any) -> bool:
        """Return whether no row refers to the row with this key."""
        assert self._model is not None
        for model, rows in self._initial.by_model.items():
            names = [
                field.attname
                for field in model._meta.local_concrete_fields
                if field.is_relation and field.related_model is self._model
            ]
            if any(values[name] == pk for values in rows.values() for name in names):
                return False
        return True


def _resolved(migration: Any) -> tuple[type[BaseMigration], str]:
    """Return the class and the key of a migration that is given as a class, an instance or a key."""
    if isinstance(migration, str):
        migration = store.get(migration)
    if isinstance(migration, BaseMigration):
        return type(migration), migration.key
    if not (isinstance(migration, type) and issubclass(migration, BaseMigration)):
        raise TypeError(f"Found {migration!r}; allowed: a class of a migration, or its key such as 'shop:0001_slugs'.")
    known = next((each.key for each in store.by_key.values() if type(each) is migration), None)
    return migration, known or f"chaos:0001_{migration.__name__.lower()}"


class ChaosMixin:
    """The checks as methods of a `TestCase`. Implement `make_rows`; `oracle` is optional.

    The test methods call `self.assert_survives(Migration)` and the like.
    """

    db_alias = api.DEFAULT

    def make_rows(self) -> None:
        """Create the rows that the migration runs on."""
        raise NotImplementedError

    def oracle(self) -> Any:
        """Return what must be the same after each run, in addition to the rows."""

    def assert_survives(self, migration: Any, **options: Any) -> Report:
        """See the function of this name."""
        return assert_survives(migration, **self._options(options))

    def assert_idempotent(self, migration: Any, **options: Any) -> Report:
        """See the function of this name."""
        return assert_idempotent(migration, **self._options(options))

    def assert_resumable(self, migration: Any, **options: Any) -> Report:
        """See the function of this name."""
        return assert_resumable(migration, **self._options(options))

    def assert_tolerates(self, migration: Any, *names: str, **options: Any) -> Report:
        """See the function of this name."""
        return assert_tolerates(migration, *names, **self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"make_rows": self.make_rows, "oracle": self.oracle, "db_alias": self.db_alias, **options}
