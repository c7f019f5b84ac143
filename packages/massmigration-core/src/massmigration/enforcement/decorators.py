"""Decorators and a mixin that keep code from running before a migration is applied."""

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

from massmigration import record_cache, text
from massmigration.enforcement import registry
from massmigration.enforcement.requirements import Requirement, key_of
from massmigration.enforcement.task_retry import retry_later
from massmigration.exceptions import RequiredMigrationNotApplied
from massmigration.loader import store

logger = logging.getLogger(__name__)

Code = TypeVar("Code", bound=Callable[..., Any])

RETRY_AFTER = 60
"""Seconds after which a client that got 503 may try again."""

APPLIED_MIGRATIONS_CACHE = record_cache.applied
"""The cache under its name in django-mass-migration. `record_cache.clear()` empties it."""

OnMissing = Callable[..., Any]
"""Called with the `RequiredMigrationNotApplied` and the arguments of the call; returns the result of the call."""


def migration_is_applied(migration_identifier: str | Sequence[str], db_alias: str) -> bool:
    """Return whether a migration is applied on a database. "Applied" is cached, so that later calls need no query.

    Raise `MigrationNotFound` if the migration has neither a file nor an applied record.
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
    `db_aliases`: the databases that it must be applied on (default: all that the migration is allowed on).
    `is_view`: answer with status 503 instead of raising.
    `skip_in_tests`: do nothing under pytest and Django's test runner, except to refuse an unknown migration.
    `on_missing`: called instead of raising, with the exception and the arguments of the call.

    Async functions and views are supported. On a class-based view, `dispatch` is decorated; on any other class,
    `__init__`.
    """
    requirement = Requirement(migration_identifier, db_aliases, skip_in_tests=skip_in_tests)
    answer = _answer_503 if is_view else on_missing or _raise

    def decorate(code: Code) -> Code:
        registry.register(requirement.key, _name_of(code, ()))
        return _guarded(code, requirement, answer)  # type: ignore[no-any-return]

    return decorate


def view_requires_migration(
    migration_identifier: str | Sequence[str],
    db_aliases: str | Sequence[str] | None = (),
    skip_in_tests: bool = True,
) -> Callable[[Code], Code]:
    """Decorate a view, a function or a class: answer with status 503 until the migration is applied.

    The arguments are the same as for `requires_migration`.
    """
    return requires_migration(migration_identifier, db_aliases, is_view=True, skip_in_tests=skip_in_tests)


def retry_until_migrated(
    migration_identifier: str | Sequence[str],
    db_aliases: str | Sequence[str] | None = (),
    skip_in_tests: bool = True,
    delay: dt.timedelta = dt.timedelta(seconds=RETRY_AFTER),
) -> Callable[[Code], Code]:
    """Decorate a Celery task or an RQ job: have its queue run it again after `delay` until the migration is applied.

    Put this below the decorator that makes the task. Outside a worker of Celery or RQ, it raises
    `RequiredMigrationNotApplied`. The other arguments are the same as for `requires_migration`.
    """

    def later(error: RequiredMigrationNotApplied, *args: Any, **kwargs: Any) -> Any:
        return retry_later(error, delay, args)

    return requires_migration(migration_identifier, db_aliases, skip_in_tests=skip_in_tests, on_missing=later)


_MIXIN_ATTRIBUTES = ("required_migrations", "required_on", "skip_in_tests")


class RequiresMigrationMixin:
    """A mixin for class-based views that answers with status 503 until the migrations are applied.

    Put it before the view's class among the bases.
    """

    required_migrations: Sequence[str | Sequence[str]] = ()
    """The migrations, each as `(app_label, name)` or `"app_label:name"`."""

    required_on: Sequence[str] = ()
    """The databases that they must be applied on (default: all that each migration is allowed on)."""

    skip_in_tests = True
    """Whether the view answers as usual under pytest and Django's test runner."""

    _requirements: tuple[Requirement, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(cls.required_migrations, str):
            raise TypeError(
                f"{cls.__qualname__}.required_migrations is a string; it must be a list, such as ['app:0001_name']."
            )
        cls._requirements = tuple(
            Requirement(each, cls.required_on, skip_in_tests=cls.skip_in_tests) for each in cls.required_migrations
        )
        for requirement in cls._requirements:
            registry.register(requirement.key, _name_of(cls, ()))

    @classmethod
    def as_view(cls, **initkwargs: Any) -> Any:
        """Return the view as Django does. The attributes of this mixin can be arguments, too."""
        given = {name: initkwargs.pop(name) for name in _MIXIN_ATTRIBUTES if name in initkwargs}
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        view: Any = type(cls.__name__, (cls,), given | names) if given else cls
        return super(RequiresMigrationMixin, view).as_view(**initkwargs)  # type: ignore[misc]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Answer the request, with status 503 if a migration is not applied."""
        proceed: Any = super().dispatch  # type: ignore[misc]
        for requirement in reversed(self._requirements):
            proceed = _guarded(proceed, requirement, _answer_503)
        return proceed(request, *args, **kwargs)


def _raise(error: RequiredMigrationNotApplied, *args: Any, **kwargs: Any) -> Any:
    raise error


def _answer_503(error: RequiredMigrationNotApplied, *args: Any, **kwargs: Any) -> HttpResponse:
    logger.error("Answered 503: %s", text.line(error))
    return _unavailable()


def _guarded(code: Any, requirement: Requirement, answer: OnMissing) -> Any:
    """Return the code with a check in front. `answer` is called if the check fails."""
    if isinstance(code, type):
        name = "dispatch" if issubclass(code, View) else "__init__"
        setattr(code, name, _guarded(getattr(code, name), requirement, answer))
        return code
    if isinstance(code, (staticmethod, classmethod)):
        return type(code)(_guarded(code.__func__, requirement, answer))

    @wraps(code)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        try:
            if not requirement.is_cached_as_met():
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
    """Return whether the caller awaits the result, although `dispatch` itself is not an async function."""
    view = _view_of(code, args)
    return view is not None and getattr(code, "__name__", "") == "dispatch" and bool(view.view_is_async)


def _name_of(code: Any, args: tuple[Any, ...]) -> str:
    view = _view_of(code, args)
    if view is None and getattr(code, "__name__", "") == "__init__" and args:
        code = type(args[0])
    # Name the class of a view rather than its method, which may be inherited.
    named = getattr(code, "view_class", code) if view is None else type(view)
    module, name = (getattr(named, part, None) for part in ("__module__", "__qualname__"))
    return f"{module}.{name}" if module and name else repr(code)


def _view_of(code: Any, args: tuple[Any, ...]) -> View | None:
    """Return the class-based view whose method is called, or None."""
    while code is not None:  # unwrap other decorators and other requirements
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
    """Return the migration's key. Raise `MigrationNotFound`, which is a `ValueError`, if there is no such file."""
    return store.get(key_of(migration_id_str_or_tuple)).key
