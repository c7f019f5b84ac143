"""Keeps code from running before the data that it needs is there."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import isawaitable
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.views import View

from massmigration import record_cache, required_by
from massmigration.ensuring import aensure_migrated, ensure_migrated
from massmigration.exceptions import RequiredMigrationNotApplied
from massmigration.later import retry_later
from massmigration.loader import store
from massmigration.requirement import Requirement, key_of

__all__ = [
    "RequiresMigrationMixin",
    "aensure_migrated",
    "ensure_migrated",
    "get_migration_key",
    "migration_is_applied",
    "requires_migration",
    "retry_until_migrated",
    "view_requires_migration",
]

logger = logging.getLogger(__name__)

Code = TypeVar("Code", bound=Callable[..., Any])

RETRY_AFTER = 60
"""Seconds after which a client that was refused may ask again."""

APPLIED_MIGRATIONS_CACHE = record_cache.applied
"""The name that django-mass-migration had; `record_cache.clear()` empties it."""

OnMissing = Callable[..., Any]
"""Called with the `RequiredMigrationNotApplied`, then what the code was called with; its result is the code's."""


def migration_is_applied(migration_identifier: str | Sequence[str], db_alias: str) -> bool:
    """Whether a migration is applied on a database. "Applied" is remembered, and asked again without a query.

    Raise `MigrationNotFound` when it has neither a file nor an applied record.
    """
    key = key_of(migration_identifier)
    if record_cache.is_applied(key, db_alias):
        return True
    store.get(key)
    return False


def requires_migration(
    migration_identifier: str | Sequence[str],
    db_aliases: str | Sequence[str] | None = (),
    is_view: bool = False,
    skip_in_tests: bool = True,
    on_missing: OnMissing | None = None,
) -> Callable[[Code], Code]:
    """Decorate a function, method or class: raise `RequiredMigrationNotApplied` until the migration is applied.

    `migration_identifier`: `(app_label, name)` or `"app_label:name"`.
    `db_aliases`: the database, or databases, it must be applied on (default: all that it is allowed on).
    `is_view`: answer 503 instead.
    `skip_in_tests`: pass under pytest and Django's test runner; an unknown migration is refused there too.
    `on_missing`: called instead of raising, with the exception and the arguments of the call.

    Async functions and views are awaited. Of a class-based view it is `dispatch` that refuses, of another class
    making an instance.
    """
    requirement = Requirement(migration_identifier, db_aliases, skip_in_tests=skip_in_tests)
    answer = _answer_503 if is_view else on_missing or _raise

    def decorate(code: Code) -> Code:
        required_by.note(requirement.key, _name_of(code, ()))
        return _guarded(code, requirement, answer)  # type: ignore[no-any-return]

    return decorate


def view_requires_migration(
    migration_identifier: str | Sequence[str],
    db_aliases: str | Sequence[str] | None = (),
    skip_in_tests: bool = True,
) -> Callable[[Code], Code]:
    """The same for views, functions or classes: answer with status 503 until the migration is applied."""
    return requires_migration(migration_identifier, db_aliases, is_view=True, skip_in_tests=skip_in_tests)


def retry_until_migrated(
    migration_identifier: str | Sequence[str],
    db_aliases: str | Sequence[str] | None = (),
    skip_in_tests: bool = True,
    delay: dt.timedelta = dt.timedelta(seconds=RETRY_AFTER),
) -> Callable[[Code], Code]:
    """The same for tasks of Celery and jobs of RQ: have the queue run them again after `delay`, as often as it takes.

    It goes below the decorator that makes the task. Elsewhere than in a worker of these it raises.
    """

    def later(error: RequiredMigrationNotApplied, *args: Any, **kwargs: Any) -> Any:
        return retry_later(error, delay, args)

    return requires_migration(migration_identifier, db_aliases, skip_in_tests=skip_in_tests, on_missing=later)


_OF_MIXIN = ("required_migrations", "required_on", "skip_in_tests")


class RequiresMigrationMixin:
    """For class-based views, before the view's class: answer 503 until the migrations are applied."""

    required_migrations: Sequence[str | Sequence[str]] = ()
    """Each `(app_label, name)` or `"app_label:name"`."""

    required_on: Sequence[str] = ()
    """The databases that they must be applied on; empty: all that each is allowed on."""

    skip_in_tests = True
    """Whether it passes under pytest and Django's test runner."""

    _asked: tuple[Requirement, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.required_migrations, str):
            raise TypeError(f"{cls.__qualname__}.required_migrations must be a list, such as ['app:0001_name'].")
        cls._asked = tuple(
            Requirement(each, cls.required_on, skip_in_tests=cls.skip_in_tests) for each in cls.required_migrations
        )
        for requirement in cls._asked:
            required_by.note(requirement.key, _name_of(cls, ()))

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Django's. What is given here of the attributes above is asked as if a subclass had it."""
        given = {name: initkwargs.pop(name) for name in _OF_MIXIN if name in initkwargs}
        named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        asked: Any = type(cls.__name__, (cls,), given | named) if given else cls
        return super(RequiresMigrationMixin, asked).as_view(**initkwargs)  # type: ignore[misc]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Django's, unless a migration is missing."""
        proceed: Any = super().dispatch  # type: ignore[misc]
        for requirement in reversed(self._asked):
            proceed = _guarded(proceed, requirement, _answer_503)
        return proceed(request, *args, **kwargs)


def _raise(error: RequiredMigrationNotApplied, *args: Any, **kwargs: Any) -> Any:
    raise error


def _answer_503(error: RequiredMigrationNotApplied, *args: Any, **kwargs: Any) -> HttpResponse:
    logger.error("Answered 503: %s", error)
    return _unavailable()


def _guarded(code: Any, requirement: Requirement, answer: OnMissing) -> Any:
    """The code, which asks first."""
    if isinstance(code, type):
        name = "dispatch" if issubclass(code, View) else "__init__"
        setattr(code, name, _guarded(getattr(code, name), requirement, answer))
        return code
    if isinstance(code, (staticmethod, classmethod)):
        return type(code)(_guarded(code.__func__, requirement, answer))

    @wraps(code)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        try:
            if not requirement.is_known_to_be_met():
                await sync_to_async(requirement.check)(_name_of(code, args))
        except RequiredMigrationNotApplied as error:
            result = answer(error, *args, **kwargs)
        else:
            result = code(*args, **kwargs)
        return await result if isawaitable(result) else result

    @wraps(code)
    def called(*args: Any, **kwargs: Any) -> Any:
        if _is_dispatch_of_async_view(code, args):
            return awaited(*args, **kwargs)
        try:
            requirement.check(_name_of(code, args))
        except RequiredMigrationNotApplied as error:
            return answer(error, *args, **kwargs)
        return code(*args, **kwargs)

    return awaited if iscoroutinefunction(code) else called


def _is_dispatch_of_async_view(code: Any, args: tuple[Any, ...]) -> bool:
    """Whether the caller is going to await what it returns, though the function itself is not async."""
    view = _view_of(code, args)
    return view is not None and getattr(code, "__name__", "") == "dispatch" and bool(view.view_is_async)


def _name_of(code: Any, args: tuple[Any, ...]) -> str:
    view = _view_of(code, args)
    if view is None and getattr(code, "__name__", "") == "__init__" and args:
        code = type(args[0])
    # Of a class-based view the class, for the method may be inherited.
    named = getattr(code, "view_class", code) if view is None else type(view)
    module, name = (getattr(named, part, None) for part in ("__module__", "__qualname__"))
    return f"{module}.{name}" if module and name else repr(code)


def _view_of(code: Any, args: tuple[Any, ...]) -> View | None:
    """The instance of a class-based view that a method is called on."""
    while code is not None:  # through what other decorators, and other requirements, have wrapped around it
        bound_to = getattr(getattr(code, "func", code), "__self__", None)  # a partial, as method_decorator makes them
        if isinstance(bound_to, View):
            return bound_to
        code = getattr(code, "__wrapped__", None)
    found = next(iter(args), None)
    return found if isinstance(found, View) else None


def _unavailable() -> HttpResponse:
    return HttpResponse(
        "This resource requires data changes which have not yet been made.\nPlease try again in a few minutes.\n",
        status=503,
        content_type="text/plain; charset=utf-8",
        headers={"Retry-After": str(RETRY_AFTER), "Cache-Control": "no-store"},
    )


def get_migration_key(migration_id_str_or_tuple: str | Sequence[str]) -> str:
    """The migration's key. Raise `MigrationNotFound`, which is a `ValueError`, if there is no such file."""
    return store.get(key_of(migration_id_str_or_tuple)).key
