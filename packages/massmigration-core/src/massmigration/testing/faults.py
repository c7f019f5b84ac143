"""The faults that the chaos kit injects into a run."""

from __future__ import annotations

import random
from typing import Any

from django.db import DatabaseError, DataError, connections, transaction
from django.db.models import Field, Model

from massmigration import api
from massmigration.definitions.stages import MappedStage
from massmigration.exceptions import InvalidTransition
from massmigration.models import ShardRecord
from massmigration.paging.querysets import all_rows
from massmigration.states import Status
from massmigration.testing.engine_runs import Call, Faults, Run, is_write, kind_of
from massmigration.testing.rows import Values, insert

KILLS = 12
MOST_INJECTED = 3
POISON = "injected by the chaos kit"


class Kill(Faults):
    """Kills the worker at statements spread over the run, half of them between an operation and its checkpoint."""

    def __init__(self, statements: int, *, seed: int = 0) -> None:
        self._every = max(statements // (KILLS + 1), 1)
        self._rng = random.Random(seed)
        self._next = self._rng.randint(1, self._every)
        self._seen = 0
        self._calls_before = 0
        self._kills = 0

    def before_statement(self, run: Run, sql: str, params: Any) -> None:
        self._seen += 1
        if self._kills >= KILLS or self._seen < self._next:
            return
        is_checkpoint = is_write(sql) == ShardRecord._meta.db_table and run.calls > self._calls_before
        if self._kills % 2 and not is_checkpoint:
            return
        self._kills += 1
        self._next = self._seen + self._rng.randint(1, self._every)
        self._calls_before = run.calls
        run.die()

    def before_call(self, run: Run, call: Call) -> None:
        if run.calls < self._calls_before:
            self._calls_before = run.calls


class DuplicateDelivery(Faults):
    """Delivers each job twice, and earlier jobs again in between."""

    def __init__(self) -> None:
        self._delivered: list[str] = []

    def deliver(self, run: Run, payload: str) -> None:
        run.perform(payload)
        run.perform(payload)
        self._delivered.append(payload)
        if len(self._delivered) % 3 == 0:
            run.perform(self._delivered[0])


class LostMessage(Faults):
    """Loses the first job of each kind, and every fifth job."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._count = 0

    def deliver(self, run: Run, payload: str) -> None:
        kind = kind_of(payload)
        self._count += 1
        if kind not in self._kinds or self._count % 5 == 0:
            self._kinds.add(kind)
            return
        run.perform(payload)


class Pauses(Faults):
    """Continues each job in a new worker, and pauses and resumes the migration in between."""

    def __init__(self) -> None:
        self._count = 0

    def between_jobs(self, run: Run) -> None:
        run.restart_worker()
        self._count += 1
        if self._count % 3 == 0 and run.status == Status.RUNNING:
            try:
                run.act(api.pause)
            except InvalidTransition:
                return
            run.queue.payloads.clear()
            run.act(api.resume)


class LastFirst(Faults):
    """Delivers the newest job first, so that the shards are processed in another order."""

    def deliver(self, run: Run, payload: str) -> None:
        run.queue.payloads.appendleft(payload)
        run.perform(run.queue.payloads.pop())


class ConcurrentEdit(Faults):
    """Edits rows as the site would, where nothing keeps it from them: between a read and a write of the operation.

    Rows that are locked are edited between two batches.
    """

    def __init__(self, fields: dict[type[Model], Field[Any, Any]], models: dict[str, type[Model]], ahead: list[Any]):
        self._fields = fields
        self._models = models
        self._ahead = ahead
        self.edited: dict[tuple[type[Model], Any], tuple[Field[Any, Any], Any]] = {}
        """The edited rows, with the field and its new value."""

    def before_statement(self, run: Run, sql: str, params: Any) -> None:
        found = unlocked_target(run, sql, params, self._models)
        if found is not None:
            self._edit(run, *found)

    def between_jobs(self, run: Run) -> None:
        if self._ahead and run.calls:
            model = next(iter(self._fields), None)
            if model is not None:
                self._edit(run, model, self._ahead.pop())

    def _edit(self, run: Run, model: type[Model], pk: Any) -> None:
        field = self._fields.get(model)
        if field is None or (model, pk) in self.edited or len(self.edited) >= 2 * MOST_INJECTED:
            return
        with run.bypassed():
            row = all_rows(model, run.db_alias).filter(pk=pk)
            before = row.values_list(field.attname, flat=True).first()
            value = edited_value(field, before)
            if row.update(**{field.attname: value}):
                self.edited[model, pk] = (field, value)


class ConcurrentDelete(Faults):
    """Deletes rows in the same way."""

    def __init__(self, models: dict[str, type[Model]], model: type[Model] | None, ahead: list[Any]) -> None:
        self._models = models
        self._model = model
        self._ahead = ahead
        self.deleted: list[tuple[type[Model], Any]] = []

    def before_statement(self, run: Run, sql: str, params: Any) -> None:
        if len(self.deleted) < MOST_INJECTED and not sql.lstrip().upper().startswith("INSERT"):
            found = unlocked_target(run, sql, params, self._models)
            if found is not None:
                self._delete(run, *found)

    def between_jobs(self, run: Run) -> None:
        if self._model is not None and self._ahead and run.calls:
            self._delete(run, self._model, self._ahead.pop())

    def _delete(self, run: Run, model: type[Model], pk: Any) -> None:
        if (model, pk) in self.deleted:
            return
        connection = connections[run.db_alias]
        try:
            with run.bypassed(), transaction.atomic(using=run.db_alias):
                count = all_rows(model, run.db_alias).filter(pk=pk)._raw_delete(run.db_alias)
                connection.check_constraints()
        except DatabaseError:  # other rows refer to it
            return
        if count:
            self.deleted.append((model, pk))


def unlocked_target(run: Run, sql: str, params: Any, models: dict[str, type[Model]]) -> tuple[type[Model], Any] | None:
    """Return the row that the operation is about to update, if a database with row locks would let others at it."""
    call = run.call
    if call is None or not sql.lstrip().upper().startswith("UPDATE"):
        return None
    model = models.get(is_write(sql))
    if model is None or model in call.locked or (model is call.model and call.holds_rows):
        return None
    pk: Any = None
    if params and _is_by_key(sql, model):
        pk = model._meta.pk.to_python(params[-1])
    elif model is call.model:
        with run.bypassed():
            pk = next(iter(call.pks()), None)
    return None if pk is None else (model, pk)


def _is_by_key(sql: str, model: type[Model]) -> bool:
    column = str(model._meta.pk.column)
    return sql.rstrip().replace("`", '"').endswith(f'"{column}" = %s')


def edited_value(field: Field[Any, Any], before: Any) -> Any:
    """Return another value of the field, as a user of the site could enter it."""
    if isinstance(before, bool):
        return not before
    if isinstance(before, int):
        return before + 1 if before < 30_000 else before - 1
    return "edited meanwhile"[: field.max_length or None]


class InsertBehind(Faults):
    """Inserts a row whose key is behind the cursor of its shard."""

    def __init__(self, model: type[Model], pk: Any, values: Values) -> None:
        self._model = model
        self._pk = pk
        self._values = values
        self.is_inserted = False

    def between_jobs(self, run: Run) -> None:
        if self.is_inserted or not run.calls:
            return
        with run.bypassed():
            insert(run.db_alias, self._model, [self._values])
        self.is_inserted = True


class PoisonRow(Faults):
    """Makes the operation of some rows raise, at a statement of it or where it uses a value of the row."""

    def __init__(self, pks: list[Any], model: type[Model]) -> None:
        self._pks = pks
        """The rows of which a value raises, and of which a statement raises, in turn."""

        self._model = model
        self._tried: set[Any] = set()
        self.swallowed: set[Any] = set()
        """The rows for which something was raised within the operation, which has not raised."""

    def heal(self) -> None:
        """Leave the rows alone for which the operation has raised, so that a retry reaches the others."""
        self._pks = [None if pk in self._tried - self.swallowed else pk for pk in self._pks]

    def before_call(self, run: Run, call: Call) -> None:
        bad = set(self._pks).intersection(call.pks()) if call.model is self._model else set()
        if not bad:
            return
        self._tried |= bad
        if isinstance(call.target, Model) and call.target.pk in self._pks[::2]:
            _poison_values(call)
        else:
            call.is_poisoned = True

    def before_statement(self, run: Run, sql: str, params: Any) -> None:
        if run.call is not None and run.call.is_poisoned and is_write(sql):
            run.call.has_raised = True
            raise DataError(POISON)

    def after_call(self, run: Run, call: Call) -> None:
        if call.has_raised:
            self.swallowed.update(set(self._pks).intersection(call.pks()))


def _poison_values(call: Call) -> None:
    """Replace texts and numbers of the object by values that raise when the operation works with them."""
    stage, obj = call.stage, call.target
    written = set((isinstance(stage, MappedStage) and stage.update_fields) or ())
    for field in obj._meta.concrete_fields:
        value = obj.__dict__.get(field.attname)
        if field.primary_key or field.is_relation or {field.name, field.attname} & written:
            continue
        for kind, names in _RAISING.items():
            if type(value) is kind:
                obj.__dict__[field.attname] = _raising(kind, names, call)(value)


_RAISING: dict[type, str] = {
    str: (
        "__str__ __format__ __iter__ __getitem__ __contains__ __add__ __mod__ __len__ split rsplit partition strip "
        "lower upper title casefold replace encode startswith endswith"
    ),
    int: "__str__ __format__ __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __floordiv__ __mod__",
}


def _raising(kind: type, names: str, call: Call) -> Any:
    def refuse(value: Any, *args: Any, **kwargs: Any) -> Any:
        call.has_raised = True
        raise ValueError(POISON)

    return type(f"Poisoned{kind.__name__.title()}", (kind,), dict.fromkeys(names.split(), refuse))
