"""The steps of a migration: their options, and the fields that they name."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Deferrable, Field, FloatField, ForeignKey, JSONField, Model, QuerySet

from massmigration.conf import LEVELS
from massmigration.definitions import callables
from massmigration.dialects import dialect_of
from massmigration.dialects.base import ROUNDED
from massmigration.documents import conditions
from massmigration.exceptions import BadMigrationFile
from massmigration.paging.keyset import Keyset
from massmigration.paging.querysets import prepare
from massmigration.throttling import CompletedBatch, Request

AnyField: TypeAlias = "Field[Any, Any]"

_Options = TypeVar("_Options", bound="CommonOptions")


class _Migration(Protocol):
    @property
    def key(self) -> str: ...


class _HasStages(Protocol):
    def get_stages(self) -> Sequence[Stage]: ...


def is_share(value: Any) -> bool:
    """Return whether the value is a number from 0 to 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of a stage of any kind. Each one can be an attribute of a migration."""

    atomic: bool = True
    """Whether rows and bookkeeping commit together, in a transaction around each batch."""

    idle_limit: dt.timedelta | None = None
    """How long a batch may leave its connection idle (default: `MASSMIGRATION_IDLE_LIMIT`)."""

    throttle: Sequence[Callable[[CompletedBatch], Request]] = ()
    """Callables that are asked after each batch how long to wait before the next."""

    def __post_init__(self) -> None:
        if not isinstance(self.atomic, bool):
            raise BadMigrationFile(f"atomic = {self.atomic!r}; allowed: True, False.")
        limit: Any = self.idle_limit
        if limit is not None and not (isinstance(limit, dt.timedelta) and limit > dt.timedelta(0)):
            raise BadMigrationFile(f"idle_limit = {limit!r}; it must be a timedelta greater than 0, or None.")
        throttle: Any = self.throttle
        if not isinstance(throttle, (list, tuple)) or not all(map(callable, throttle)):
            raise BadMigrationFile(f"throttle = {throttle!r}; it must be a list of callables.")

    @classmethod
    def of(cls: type[_Options], migration: _Migration) -> _Options:
        """Return the options that a migration sets as attributes. Raise `BadMigrationFile` for an impossible value."""
        names = [field.name for field in dataclasses.fields(cls) if hasattr(migration, field.name)]
        with _error_of(migration.key):
            return cls(**{name: getattr(migration, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOptions(CommonOptions):
    """The options of a mapped stage. Each one can be an attribute of a migration, and an argument of `MappedStage`.

    Raise `BadMigrationFile`, without the migration's name, for an impossible value.
    """

    batch_size: int | None = None
    """Rows in every batch, of objects at most; None: adapts to `batch_duration`."""

    first_batch_size: int | None = None
    """Rows in the first batch of a shard; None: `MASSMIGRATION_BATCH_SIZE`, but at most 10 for a set."""

    batch_duration: dt.timedelta | None = None
    """Target duration of a batch, and so of its row locks; None: `MASSMIGRATION_BATCH_DURATION`."""

    pace: str | None = None
    """How much the stage gives way to the site: `"gentle"`, `"steady"` or `"full"`; None: `MASSMIGRATION_PACE`."""

    max_batch_size: int | None = None
    """Maximum rows in a batch; None: `MASSMIGRATION_MAX_BATCH_SIZE`, or `MASSMIGRATION_MAX_SET_SIZE` for a set."""

    max_batch_growth: float | None = None
    """How many times larger than the last batch the next one may be, at most; None: 4 times."""

    on_error: str = "stop"
    """`"stop"` at an object that fails, or `"continue"` with the next."""

    max_failures: int | None = 1000
    """How many failed objects `"continue"` tolerates; None: any number."""

    max_consecutive_failures: int | None = 100
    """At how many consecutive failed objects within a shard `"continue"` stops; None: never."""

    max_failure_rate: float | None = None
    """Above which share of failed objects in a shard `"continue"` stops; None: `MASSMIGRATION_MAX_FAILURE_RATE`."""

    lock_rows: bool = True
    """Whether the objects passed to `operation` are locked in the database until their batch commits."""

    catch_up: bool = True
    """Whether there are further passes over what still matches, if all processed objects were seen to leave."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lock_rows", "catch_up"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise BadMigrationFile(f"{name} = {value!r}; allowed: True, False.")
        if self.pace not in (None, *LEVELS):
            raise BadMigrationFile(f"pace = {self.pace!r}; allowed: {', '.join(map(repr, LEVELS))}, None.")
        if self.on_error not in ("stop", "continue"):
            raise BadMigrationFile(f"on_error = {self.on_error!r}; allowed: 'stop', 'continue'.")
        least_values = {
            **dict.fromkeys(("batch_size", "first_batch_size", "max_batch_size", "max_consecutive_failures"), 1),
            "max_failures": 0,
        }
        for name, least in least_values.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, float)) or value < least):
                raise BadMigrationFile(f"{name} = {value!r}; it must be {least} or more, or None.")
        rate: Any = self.max_failure_rate
        if rate is not None and not is_share(rate):
            raise BadMigrationFile(f"max_failure_rate = {rate!r}; it must be a number from 0 to 1, or None.")
        self._check_batches()

    def _check_batches(self) -> None:
        duration: Any = self.batch_duration
        if duration is not None and not (isinstance(duration, dt.timedelta) and duration > dt.timedelta(0)):
            raise BadMigrationFile(f"batch_duration = {duration!r}; it must be a timedelta greater than 0, or None.")
        growth: Any = self.max_batch_growth
        is_number = isinstance(growth, (int, float)) and not isinstance(growth, bool)
        if growth is not None and not (is_number and growth > 1):
            raise BadMigrationFile(f"max_batch_growth = {growth!r}; it must be greater than 1, or None.")
        if self.batch_size is not None and self.max_batch_size is not None and self.batch_size > self.max_batch_size:
            raise BadMigrationFile(
                f"batch_size = {self.batch_size!r} and max_batch_size = {self.max_batch_size!r}; batch_size is the "
                "size of every batch. Remove one of them."
            )
        first = self.first_batch_size
        if first is not None and self.batch_size is not None:
            raise BadMigrationFile(
                f"batch_size = {self.batch_size!r} and first_batch_size = {first!r}; batch_size is the size of every "
                "batch. Remove one of them."
            )
        if first is not None and self.max_batch_size is not None and first > self.max_batch_size:
            raise BadMigrationFile(
                f"first_batch_size = {first!r} and max_batch_size = {self.max_batch_size!r}; the first batch must not "
                "be larger than the largest."
            )


class UserFunction(NamedTuple):
    """A function of the migration that a stage calls."""

    function: Callable[..., Any]
    name: str
    """The argument of the stage that holds it, which is also the usual name of the method."""

    arguments: tuple[str, ...]
    """The names of the arguments that it is called with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(CommonOptions):
    """One step of a migration. The house style lists what a kind of stage consists of."""

    name: str
    """The migration's key, for messages."""

    def __post_init__(self) -> None:
        with _error_of(self.name):
            super().__post_init__()

    @property
    def functions(self) -> Sequence[UserFunction]:
        """The functions that the stage calls. A check and a launch refuse those that cannot be called."""
        return ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageContext:
    """The current call of a stage that is done once, for an operation with `takes_context`."""

    key: str
    """The migration's key."""

    db_alias: str
    attempt_id: str
    """The attempt's id. Empty in a dry run."""

    stage: int
    """The index of the stage, from 0."""

    stop_requested: Callable[[], bool] = lambda: False
    """Returns whether the worker has been asked to shut down. Raise `NotNow` at a point where the call can end."""

    is_current: Callable[[], bool] = lambda: True
    """Returns whether the call still counts: the migration runs this attempt and stage, and no other worker has taken
    the stage over. With `atomic = False`, ask before each effect that must not happen after a cancel or a crash."""

    add_event: Callable[[str], None] = lambda detail: None
    """Adds an event with this text to the migration's history. With `atomic = True`, it commits with the operation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnceStage(Stage):
    """A stage that is one call."""

    operation: Callable[..., None]
    takes_context: bool = False
    """Whether `operation` takes a `StageContext` as its second argument."""

    is_ending: bool = False
    """Whether it only completes the mapped stages before it, and so has nothing to do if they had no rows."""

    @property
    def functions(self) -> Sequence[UserFunction]:
        arguments = ("db_alias", "context") if self.takes_context else ("db_alias",)
        return [UserFunction(self.operation, "operation", arguments)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaitStage(Stage):
    """A stage that waits for an operator. Until it proceeds, no worker works on the migration, except `meanwhile`."""

    question: str
    """What the operator must confirm. Shown by commands and pages, and recorded in the history."""

    meanwhile: Callable[[str], dt.timedelta] | None = None
    """Called with `db_alias` by a worker again and again while the stage waits. It may run twice at the same time, and
    returns when it wants to be called again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        question: Any = self.question
        if not isinstance(question, str) or not question.strip():
            raise BadMigrationFile(
                f"Migration {self.name!r} has a stage that waits with question = {question!r}; it must be a non-empty "
                "string."
            )
        if self.meanwhile is not None and not callable(self.meanwhile):
            raise BadMigrationFile(
                f"Migration {self.name!r} has a stage that waits with meanwhile = {self.meanwhile!r}; it must be a "
                "function."
            )

    @property
    def functions(self) -> Sequence[UserFunction]:
        return [UserFunction(self.meanwhile, "meanwhile", ("db_alias",))] if self.meanwhile else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class MappedStage(Stage, StageOptions):
    """A stage that is mapped over a queryset, by exactly one of `operation` and `operation_batch`."""

    get_queryset: Callable[[str], QuerySet[Any]]
    cursor_field: str | None = None
    """The unique field, never null, that orders the batches; None: the primary key."""

    operation: Callable[[Model, str], None] | None = None
    operation_batch: Callable[[QuerySet[Any], str], None] | None = None
    is_statement: bool = False
    """Whether `operation_batch` executes only one statement, so that shards may be large."""

    update_fields: Sequence[str] | None = None
    """The fields that the engine writes back after `operation`; None: the operation saves."""

    empties: bool = False
    """Whether every processed object certainly leaves the queryset, so that the engine need not check."""

    remaining: Callable[[str], int] | None = None
    """Returns how many objects still need the migration. The stage ends only when it returns 0."""

    @property
    def functions(self) -> Sequence[UserFunction]:
        found = [UserFunction(self.get_queryset, "get_queryset", ("db_alias",))]
        if self.operation is not None:
            found.append(UserFunction(self.operation, "operation", ("obj", "db_alias")))
        if self.operation_batch is not None:
            found.append(UserFunction(self.operation_batch, "operation_batch", ("queryset", "db_alias")))
        if self.remaining is not None:
            found.append(UserFunction(self.remaining, "remaining", ("db_alias",)))
        return found

    def rows(self, db_alias: str, *, is_quiet: bool = False) -> QuerySet[Any]:
        """Return the queryset, prepared for batches. Raise `BadQuerySet` or `BadMigrationFile` if it cannot be."""
        found = callables.call(self.get_queryset, db_alias)
        queryset = prepare(found, db_alias, name=self.name, may_leave=not self.atomic, is_quiet=is_quiet)
        if not dialect_of(queryset.db).has_sql:
            conditions.check(queryset, name=self.name)
        check_exact(queryset.model, self._keys(queryset.model), queryset.db, name=self.name)
        return queryset

    def _keys(self, model: type[Model]) -> list[str]:
        """Return the names of the fields that rows are found by: the fields of the cursor and of the primary key."""
        return list(dict.fromkeys([*self.keyset(model).fields, *Keyset.of(model).fields]))

    def check_columns(self, model: type[Model], db_alias: str) -> None:
        """Raise `BadMigrationFile` if the column of a key does not store its values exactly. This makes queries."""
        check_exact_columns(model, self._keys(model), db_alias, name=self.name)

    def keyset(self, model: type[Model]) -> Keyset:
        """Return the keyset that orders the batches. Raise `BadMigrationFile` if `cursor_field` is unsuitable."""
        if self.cursor_field is None:
            return Keyset.of(model)
        return Keyset.by(cursor_of(model, self.cursor_field, name=self.name))


@contextlib.contextmanager
def _error_of(key: str) -> Iterator[None]:
    """Put the migration's name in front of an error about its options."""
    try:
        yield
    except BadMigrationFile as error:
        raise BadMigrationFile(f"Migration {key!r} has {error}") from None


def question_of(migration: _HasStages | None, stage: int) -> str:
    """Return the question of a migration's stage if it waits for an operator, or an empty string."""
    try:
        stages = migration.get_stages() if migration else []
    except Exception:  # `get_stages` may be the user's own; what uses the stages reports the error
        return ""
    found = stages[stage] if stage < len(stages) else None
    return found.question if isinstance(found, WaitStage) else ""


def without_waits(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages that do something."""
    return [stage for stage in stages if not isinstance(stage, WaitStage)]


def only_mapped(stages: Sequence[Stage]) -> list[MappedStage]:
    """Return the mapped stages, or an empty list if another stage has something to do even without any rows."""
    mapped = [stage for stage in stages if isinstance(stage, MappedStage)]
    others = [stage for stage in stages if not isinstance(stage, MappedStage)]
    return mapped if all(isinstance(stage, OnceStage) and stage.is_ending for stage in others) else []


def writable(model: type[Model], field_name: str, *, name: str) -> AnyField:
    """Return a field of `model` that `update_fields` of migration `name` names.

    Raise `BadMigrationFile` if there is no such field or it cannot be written.
    """
    field = _find(model, field_name, f"update_fields of migration {name!r}")
    if field is None or field.primary_key or getattr(field, "generated", False):
        raise BadMigrationFile(
            f"update_fields of migration {name!r} names {field_name!r}, which is not a writable column of "
            f"{model._meta.label}. Primary keys, generated columns, reverse relations and many-to-many relations are "
            "not writable."
        )
    return field


def cursor_of(model: type[Model], field_name: Any, *, name: str) -> AnyField:
    """Return the field of `model` that `cursor_field` of migration `name` names.

    Raise `BadMigrationFile` unless the field is unique, never null and has an order.
    """
    whose = f"cursor_field of migration {name!r}"
    label = model._meta.label
    if not isinstance(field_name, str):
        raise BadMigrationFile(f"{whose} is {field_name!r}; it must be the name of one field of {label}.")
    if "__" in field_name:
        raise BadMigrationFile(
            f"{whose} is {field_name!r}, which is a field of another model; it must be a field of {label}."
        )
    field = _find(model, field_name, whose)
    problem = "is not a column" if field is None else _cursor_problem(model, field)
    if problem:
        raise BadMigrationFile(
            f"{whose} names {field_name!r} of {label}, which {problem}. Batches would skip objects or process them "
            "twice. Name a field that is unique and never null, or remove cursor_field to use the primary key."
        )
    assert field is not None
    return field


def check_exact(model: type[Model], names: Sequence[str], db_alias: str, *, name: str) -> None:
    """Raise `BadMigrationFile` if the database does not store the values of these fields exactly.

    The fields order the batches: a value that is rounded when it is read would not find its own row again. This makes
    no query.
    """
    for field in map(model._meta.get_field, names):
        reason = dialect_of(db_alias).inexact_key(_target(field))
        if reason:
            raise _inexact(model, field, reason, name)


def check_exact_columns(model: type[Model], names: Sequence[str], db_alias: str, *, name: str) -> None:
    """Do the same for the types of the columns, which may differ from what the model says. This makes queries."""
    dialect = dialect_of(db_alias)
    for field in map(model._meta.get_field, names):
        if dialect.rounded_types and isinstance(_target(field), FloatField):
            kind = dialect.column_type(field.model._meta.db_table, str(field.column))  # type: ignore[union-attr]
            if kind in dialect.rounded_types:
                raise _inexact(model, field, ROUNDED.format(kind), name)


def _inexact(model: type[Model], field: Any, reason: str, name: str) -> BadMigrationFile:
    return BadMigrationFile(
        f"Batches of migration {name!r} are ordered by {field.name!r} of {model._meta.label}, which {reason}. Rows "
        "would be skipped or processed twice. Add another key to the rows, or return from get_queryset() a model of "
        "the same table that has one."
    )


def _target(field: Any) -> Any:
    """Return the field that a foreign key refers to in the end, or the field itself."""
    while isinstance(field, ForeignKey):
        field = field.target_field
    return field


def _cursor_problem(model: type[Model], field: AnyField) -> str:
    if field.model._meta.concrete_model is not model._meta.concrete_model:
        return f"is in the table of the parent {field.model._meta.label}"
    if field.null:
        return "may be null"
    if isinstance(field, JSONField):
        return "is JSON and has no order"
    if not field.unique and not _is_constrained(model, field):
        return "is not unique"
    return ""


def _is_constrained(model: type[Model], field: AnyField) -> bool:
    """Return whether a constraint on this field alone makes it unique, for every row and not only at commit."""
    together: Any = model._meta.unique_together
    return (field.name,) in {tuple(names) for names in together} or any(
        tuple(constraint.fields) == (field.name,) and constraint.deferrable in (None, Deferrable.IMMEDIATE)
        for constraint in model._meta.total_unique_constraints
    )


def _find(model: type[Model], field_name: str, whose: str) -> AnyField | None:
    """Return the field, or None if something else has that name, such as a reverse relation."""
    try:
        field = model._meta.get_field(field_name)
    except FieldDoesNotExist:
        known = sorted(field.name for field in model._meta.concrete_fields)
        near = difflib.get_close_matches(str(field_name), known, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise BadMigrationFile(
            f"{whose} names {field_name!r}, which {model._meta.label} does not have; it has: {', '.join(known)}.{guess}"
        ) from None
    # A many-to-many field is concrete for Django.
    if not isinstance(field, Field) or not field.concrete or field.many_to_many:
        return None
    return None if getattr(field, "column", None) is None else field
