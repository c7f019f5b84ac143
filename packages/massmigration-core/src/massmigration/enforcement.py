"""Keeps code from running before the data that it needs is there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import isawaitable
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import connections
from django.http import HttpResponse
from django.views import View

from massmigration import record_cache
from massmigration.exceptions import (
    BadMigrationFile,
    MigrationNotFound,
    RecordsUnreadable,
    RequiredMigrationNotApplied,
)
from massmigration.loader import store
from massmigration.models import MigrationRecord
from massmigration.states import Status
from massmigration.under_test import in_tests

logger = logging.getLogger(__name__)

Code = TypeVar("Code", bound=Callable[..., Any])

RETRY_AFTER = 60
"""Seconds after which a client that was refused may ask again."""

APPLIED_MIGRATIONS_CACHE = record_cache.applied
"""The name that django-mass-migration had; `record_cache.clear()` empties it."""


def migration_is_applied(migration_identifier: str | Sequence[str], db_alias: str) -> bool:
    """Whether a migration is applied on a database. "Applied" is remembered, and asked again without a query.

    Raise `MigrationNotFound` when it has neither a file nor an applied record.
    """
    key = _key_of(migration_identifier)
    if record_cache.is_applied(key, db_alias):
        return True
    store.get(key)
    return False


def requires_migration(
    migration_identifier: str | Sequence[str],
    db_aliases: str | Sequence[str] | None = (),
    is_view: bool = False,
    skip_in_tests: bool = True,
) -> Callable[[Code], Code]:
    """Decorate a function, method or class: raise `RequiredMigrationNotApplied` until the migration is applied.

    `migration_identifier`: `(app_label, name)` or `"app_label:name"`.
    `db_aliases`: the database, or databases, it must be applied on (default: all that it is allowed on).
    `is_view`: answer 503 instead.
    `skip_in_tests`: pass under pytest and Django's test runner; an unknown migration is refused there too.

    Async functions and views are awaited. Of a class-based view it is `dispatch` that refuses, of another class
    making an instance.
    """
    given = [db_aliases] if isinstance(db_aliases, str) else list(db_aliases or ())
    requirement = _Requirement(_key_of(migration_identifier), given, is_view=is_view, skip_in_tests=skip_in_tests)

    def decorate(code: Code) -> Code:
        return _guarded(code, requirement)  # type: ignore[no-any-return]

    return decorate


def view_requires_migration(
    migration_identifier: str | Sequence[str],
    db_aliases: str | Sequence[str] | None = (),
    skip_in_tests: bool = True,
) -> Callable[[Code], Code]:
    """The same for views, functions or classes: answer with status 503 until the migration is applied."""
    return requires_migration(migration_identifier, db_aliases, is_view=True, skip_in_tests=skip_in_tests)


class _Requirement:
    """What one decorator asks for."""

    def __init__(self, key: str, db_aliases: list[str], *, is_view: bool, skip_in_tests: bool) -> None:
        self._key = key
        self._db_aliases = db_aliases
        self._is_view = is_view
        self._skip_in_tests = skip_in_tests
        self._met_on: list[str] = []

    def is_known_to_be_met(self) -> bool:
        """Whether memory alone can tell that the migration is applied."""
        met_on = self._met_on
        return bool(met_on) and all(record_cache.is_known(self._key, db_alias) for db_alias in met_on)

    def refuse(self, name: str) -> HttpResponse | None:
        """The answer of a view that must not run; None: go on. Raise for what is not a view."""
        if self.is_known_to_be_met():
            return None
        try:
            self._check(name)
        except RequiredMigrationNotApplied as error:
            if not self._is_view:
                raise
            logger.error("Answered 503: %s", error)
            return _unavailable()
        return None

    def _check(self, name: str) -> None:
        needed = self._needed()
        if self._skip_in_tests and in_tests():
            return
        problems = [problem for db_alias in needed if (problem := self._problem(db_alias))]
        if problems:
            raise RequiredMigrationNotApplied(f"{name} requires migration {self._key!r}. {'. '.join(problems)}")
        self._met_on = needed

    def _needed(self) -> list[str]:
        """On which databases. Raise for a migration without a usable file, unless it is applied on all of them."""
        try:
            migration = store.get(self._key)
        except (MigrationNotFound, BadMigrationFile) as error:
            return self._needed_without_file(error)
        for db_alias in self._db_aliases:
            migration.check_db_alias(db_alias)
        return self._db_aliases or migration.get_allowed_db_aliases()

    def _needed_without_file(self, error: MigrationNotFound | BadMigrationFile) -> list[str]:
        if self._skip_in_tests and in_tests():
            raise error
        needed = self._db_aliases or list(connections)
        missing = ", ".join(repr(db_alias) for db_alias in needed if self._problem(db_alias))
        if missing and isinstance(error, BadMigrationFile):
            raise error
        if missing:
            raise MigrationNotFound(
                f"{error} Nor has it been applied on database {missing}. Correct the name; or, if its file was "
                "deleted, remove this requirement too, or say with db_aliases where it was applied."
            ) from error
        return needed

    def _problem(self, db_alias: str) -> str:
        """Why the requirement is not met on one database, and what to do; empty if it is."""
        try:
            if record_cache.is_known(self._key, db_alias):
                return ""
            status = record_cache.read_status(self._key, db_alias)
        except RecordsUnreadable as error:
            return str(error)
        if status == Status.APPLIED:
            return ""
        app_label, _, name = self._key.partition(":")
        return (
            f"On database {db_alias!r} it is {status.value if status else 'not run'}, and must be applied. "
            f"Run: manage.py massmigrate {app_label} {name} --database {db_alias}"
        ) + ("" if status else _hint_for_new_database(db_alias))


def _guarded(code: Any, requirement: _Requirement) -> Any:
    """The code, which asks first."""
    if isinstance(code, type) and issubclass(code, View):
        code.dispatch = _guarded(code.dispatch, requirement)  # type: ignore[method-assign]
        return code
    if isinstance(code, (staticmethod, classmethod)):
        return type(code)(_guarded(code.__func__, requirement))

    @wraps(code)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        if not requirement.is_known_to_be_met():
            refusal = await sync_to_async(requirement.refuse)(_name_of(code, args))
            if refusal is not None:
                return refusal
        result = code(*args, **kwargs)
        return await result if isawaitable(result) else result

    @wraps(code)
    def called(*args: Any, **kwargs: Any) -> Any:
        if _is_dispatch_of_async_view(code, args):
            return awaited(*args, **kwargs)
        refusal = requirement.refuse(_name_of(code, args))
        return code(*args, **kwargs) if refusal is None else refusal

    return awaited if iscoroutinefunction(code) else called


def _is_dispatch_of_async_view(code: Any, args: tuple[Any, ...]) -> bool:
    """Whether the caller is going to await what it returns, though the function itself is not async."""
    view = _view_of(code, args)
    return view is not None and getattr(code, "__name__", "") == "dispatch" and bool(view.view_is_async)


def _name_of(code: Any, args: tuple[Any, ...]) -> str:
    view = _view_of(code, args)
    # Of a class-based view the class, for the method may be inherited.
    named = getattr(code, "view_class", code) if view is None else type(view)
    return f"{named.__module__}.{named.__qualname__}" if hasattr(named, "__qualname__") else repr(code)


def _view_of(code: Any, args: tuple[Any, ...]) -> View | None:
    """The instance of a class-based view that a method is called on."""
    bound_to = getattr(getattr(code, "func", code), "__self__", None)  # a partial, as method_decorator makes them
    found = bound_to if bound_to is not None else next(iter(args), None)
    return found if isinstance(found, View) else None


def _unavailable() -> HttpResponse:
    return HttpResponse(
        "This resource requires data changes which have not yet been made.\nPlease try again in a few minutes.\n",
        status=503,
        content_type="text/plain; charset=utf-8",
        headers={"Retry-After": str(RETRY_AFTER), "Cache-Control": "no-store"},
    )


def _hint_for_new_database(db_alias: str) -> str:
    """Nothing is applied by itself on a new database: no one but its owner knows that there is nothing to change."""
    if MigrationRecord.objects.using(db_alias).exists():
        return ""
    return (
        f". No migration was ever launched on this database. If it is new, apply all of them, which takes moments "
        f"where there are no rows: manage.py massmigrate --database {db_alias}"
    )


def _key_of(identifier: str | Sequence[str]) -> str:
    parts: list[Any] = identifier.split(":") if isinstance(identifier, str) else list(identifier)
    if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise MigrationNotFound(
            f"{identifier!r} does not name a migration: write (app_label, name) or 'app_label:name'."
        )
    return ":".join(parts)


def get_migration_key(migration_id_str_or_tuple: str | Sequence[str]) -> str:
    """The migration's key. Raise `MigrationNotFound`, which is a `ValueError`, if there is no such file."""
    return store.get(_key_of(migration_id_str_or_tuple)).key
