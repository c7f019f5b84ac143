"""Finds what is wrong with a migration's file before anything of it is run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import connections

from massmigration import calling
from massmigration.definitions.base import BaseMigration
from massmigration.definitions.stages import MappedStage, OnceStage, Stage
from massmigration.exceptions import BadMigrationFile, MassMigrationError
from massmigration.fields import writable

_OPENERS = ("connect", "cursor", "chunked_cursor")


class _QueryAttempted(Exception):
    """`get_queryset()` asked a database."""


def vet(migration: BaseMigration, db_alias: str) -> None:
    """Raise `BadMigrationFile` or `BadQuerySet` if it can be known that the migration would fail as a whole.

    No query is made: where `get_queryset()` needs one, or raises, its queryset remains to be seen.
    """
    check_models(check_methods(migration), db_alias)


def check_methods(migration: BaseMigration) -> Sequence[Stage]:
    """The stages. Raise `BadMigrationFile` if they are none, or if what they call cannot be called so."""
    stages = migration.get_stages()
    for stage in stages:
        if isinstance(stage, OnceStage):
            _check_call(stage, stage.operation, "operation", "db_alias")
        elif isinstance(stage, MappedStage):
            _check_call(stage, stage.get_queryset, "get_queryset", "db_alias")
            if stage.operation is not None:
                _check_call(stage, stage.operation, "operation", "obj", "db_alias")
            if stage.operation_batch is not None:
                _check_call(stage, stage.operation_batch, "operation_batch", "queryset", "db_alias")
    return stages


def check_models(stages: Sequence[Stage], db_alias: str) -> None:
    """Raise `BadQuerySet`, or `BadMigrationFile` for fields that the querysets' models do not have."""
    for stage in stages:
        if isinstance(stage, MappedStage) and (model := _model(stage, db_alias)) is not None:
            stage.keyset(model)
            for field_name in stage.update_fields or ():
                writable(model, field_name, name=stage.name)


def _model(stage: MappedStage, db_alias: str) -> Any:
    """None: that cannot be known without a query."""
    try:
        with _no_queries():
            return stage.rows(db_alias, is_quiet=True).model
    except MassMigrationError:
        raise
    except Exception:
        return None


def _check_call(stage: Stage, function: Callable[..., Any], name: str, *arguments: str) -> None:
    own = ("self", *arguments) if inspect.ismethod(function) else arguments
    advice = f"Define it as {name}({', '.join(own)})."
    if calling.is_unrun(function):
        raise BadMigrationFile(
            f"{name}() of migration {stage.name!r} is asynchronous or has a yield, so that a call would run nothing. "
            f"{advice} asgiref.sync.async_to_sync runs asynchronous code within it."
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is no Python, nothing is known
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
    """Raise instead of asking any database."""

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
