"""Checks of a migration's file before any of it runs."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from django.db import connections

from massmigration import text
from massmigration.definitions import callables
from massmigration.definitions.base import BaseMigration, MapperMigration
from massmigration.definitions.stages import MappedStage, Stage, UserFunction, writable
from massmigration.exceptions import BadMigrationFile, MassMigrationError

_OPENERS = ("connect", "cursor", "chunked_cursor")


class _QueryAttempted(Exception):
    """The exception that ends a check because `get_queryset()` has made a query."""


def validate(migration: BaseMigration, db_alias: str) -> None:
    """Raise `BadMigrationFile` or `BadQuerySet` if the migration would certainly fail as a whole.

    The only queries are for the types of columns. If `get_queryset()` makes a query or raises, its queryset is not
    checked.
    """
    validate_querysets(validate_methods(migration), db_alias, with_columns=True)


def validate_methods(migration: BaseMigration) -> Sequence[Stage]:
    """Return the stages.

    Raise `BadMigrationFile` if an option has an impossible value, if `get_stages` does not return stages, or if a
    method cannot be called with the arguments that it gets.
    """
    _check_choices(migration)
    stages: Any = migration.get_stages()
    if not isinstance(stages, (list, tuple)) or not all(isinstance(stage, Stage) for stage in stages):
        raise BadMigrationFile(
            f"get_stages() of migration {migration.key!r} returned {text.safe_repr(stages)}; it must return a list of "
            "stages. Create them with self.once(), self.mapped() and self.wait()."
        )
    for stage in stages:
        for found in stage.functions:
            _check_call(stage, found)
    return stages


def _check_choices(migration: BaseMigration) -> None:
    for name, allowed in (("on_code_change", ("event", "pause")), ("on_fresh_database", ("run", "fake"))):
        value = getattr(migration, name)
        if value not in allowed:
            words = ", ".join(map(repr, allowed))
            raise BadMigrationFile(f"Migration {migration.key!r} has {name} = {value!r}; allowed: {words}.")
    if not isinstance(migration.runs_only_by_name, bool):
        value = migration.runs_only_by_name
        raise BadMigrationFile(f"Migration {migration.key!r} has runs_only_by_name = {value!r}; allowed: True, False.")
    queue_name: Any = migration.queue_name
    if queue_name is not None and not isinstance(queue_name, str):
        raise BadMigrationFile(f"Migration {migration.key!r} has queue_name = {queue_name!r}; it must be a string.")


def validate_querysets(stages: Sequence[Stage], db_alias: str, *, with_columns: bool = False) -> None:
    """Raise `BadQuerySet` for a bad queryset, and `BadMigrationFile` for fields that its model does not have.

    `with_columns`: query the database, too, whether it stores the keys exactly.
    """
    for stage in stages:
        if isinstance(stage, MappedStage) and (model := _model(stage, db_alias)) is not None:
            stage.keyset(model)
            for field_name in stage.update_fields or ():
                writable(model, field_name, name=stage.name)
            if with_columns:
                stage.check_columns(model, db_alias)


def misspelled_options(migration: BaseMigration) -> dict[str, str]:
    """Return attributes of the migration that look like misspelled options, each with the likely option."""
    mro = type(migration).__mro__
    our_classes = [cls for cls in mro if cls.__module__.partition(".")[0] == "massmigration"]
    given = {name: value for cls in mro if cls not in (*our_classes, object) for name, value in vars(cls).items()}
    options, hooks = set[str](), set[str]()
    for cls in our_classes:
        options |= {name for name, value in vars(cls).items() if _is_option(name, value)}
        hooks |= _HOOKS & vars(cls).keys()
    found = {}
    for name, value in given.items():
        if name.startswith("_") or name.isupper() or isinstance(value, type) or name in options | hooks:
            continue
        near = difflib.get_close_matches(
            name.lower(), (hooks if _is_method(value) else options) - given.keys(), n=1, cutoff=_CLOSE
        )
        if near:
            found[name] = near[0]
    return found


def ineffective_options(migration: BaseMigration) -> list[str]:
    """Return the options of `MapperMigration` that a migration of another kind sets without effect."""
    cls = type(migration)
    kind = next(each for each in cls.__mro__ if each.__module__.partition(".")[0] == "massmigration")
    if isinstance(migration, MapperMigration) or cls.get_stages is not kind.get_stages:  # type: ignore[attr-defined]
        return []
    options = {name for name, value in vars(MapperMigration).items() if _is_option(name, value)}
    options |= {"get_queryset", "operation_batch", "remaining"}
    return sorted(name for name in vars(cls).keys() & options if not hasattr(kind, name))


_CLOSE = 0.87
"""The similarity, as difflib measures it, of a misspelled option: about one wrong letter in eight."""

_HOOKS = frozenset(
    {
        *("get_queryset", "operation", "operation_batch", "remaining", "launch", "get_stages"),
        *("get_details", "get_actions", "check_action"),
    }
)


def _is_option(name: str, value: Any) -> bool:
    is_hidden = name.startswith("_") or name in ("launch_through_engine", "find_backend")
    return not (is_hidden or _is_method(value) or isinstance(value, (property, cached_property)))


def _is_method(value: Any) -> bool:
    return callable(value) or isinstance(value, (staticmethod, classmethod))


def _model(stage: MappedStage, db_alias: str) -> Any:
    """Return the model of the stage's queryset, or None if that cannot be known without a query."""
    try:
        with _no_queries():
            return stage.rows(db_alias, is_quiet=True).model
    except MassMigrationError:
        raise
    except Exception:
        return None


def _check_call(stage: Stage, found: UserFunction) -> None:
    function, name, arguments = found
    own = ("self", *arguments) if inspect.ismethod(function) else arguments
    advice = f"Define it as {name}({', '.join(own)})."
    if callables.is_lazy(function):
        raise BadMigrationFile(
            f"{name}() of migration {stage.name!r} is asynchronous or contains yield, so a call would execute none of "
            f"its code. {advice} To run asynchronous code in it, use asgiref.sync.async_to_sync."
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it is not written in Python
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        called = f"({', '.join(arguments)})"
        raise BadMigrationFile(
            f"{name}() of migration {stage.name!r} is called with {called}, but takes {signature}. {advice}"
        ) from None


@contextlib.contextmanager
def _no_queries() -> Iterator[None]:
    """Raise `_QueryAttempted` instead of making a query, on every database."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise _QueryAttempted

    before = [(connection, dict(vars(connection))) for connection in connections.all()]
    for connection, _ in before:
        vars(connection).update(dict.fromkeys(_OPENERS, refuse))
    try:
        yield
    finally:
        for connection, attributes in before:
            for name in _OPENERS:
                if name in attributes:
                    vars(connection)[name] = attributes[name]
                else:
                    del vars(connection)[name]
