"""Turns the settings, and a migration's own wishes, into backends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadBackend, BadMigrationFile, MigrationNotFound
from massmigration.loader import store

if TYPE_CHECKING:
    from massmigration.backends.base import BaseBackend

_backends: dict[tuple[str, str], Any] = {}
_overrides: dict[str, BaseBackend] = {}

DEFAULT_METHOD = "run_mapper"


def get_backend(path: str | None = None) -> Any:
    """The backend of the settings, or the one at a dotted path. Raise `BadBackend` if it cannot be made.

    It is a `BaseBackend`, or a custom one that carries no jobs: a `BackendBase`, or the like.
    """
    return _get(path or settings.BACKEND, "", {}, "")


def import_backend() -> None:
    """Import the module of the settings' backend. Nothing is said of one that cannot be imported: a check does."""
    with contextlib.suppress(ImportError):
        import_string(settings.BACKEND)


def backend_of(migration: BaseMigration) -> Any:
    """The backend that a migration goes to, with the migration's own queue and parameters."""
    if migration.key in _overrides:
        return _overrides[migration.key]
    own: dict[str, Any] = {**({"queue": migration.queue_name} if migration.queue_name else {})}
    own |= migration.get_backend_params()
    return _get(migration.backend_str, migration.key if own else "", own, method_of(migration))


def method_of(migration: BaseMigration) -> str:
    """The method of its backend that a migration goes to."""
    name: Any = migration.backend_method  # django-mass-migration's templates say NotImplemented where it is not used
    return name if isinstance(name, str) and name else DEFAULT_METHOD


def backend_of_job(key: str, path: str) -> BaseBackend:
    """The backend that carries a migration's jobs: its own, else the one at `path`, which has carried them so far.

    Raise `BadBackend` if neither carries jobs.
    """
    try:
        own = backend_of(store.get(key))
    except (MigrationNotFound, BadMigrationFile):
        own = None
    found = own if _carries_jobs(own) else get_backend(path or None)
    if not _carries_jobs(found):
        raise BadBackend(
            f"The backend {type(found).__qualname__} runs migrations by itself and cannot go on with the jobs of "
            f"{key!r}. Set MASSMIGRATION_BACKEND, or the migration's backend, back to the one it was launched with."
        )
    return cast("BaseBackend", found)


@contextlib.contextmanager
def overriding(key: str, backend: BaseBackend) -> Iterator[None]:
    """Let `backend` carry the jobs that this process sends for a migration, whatever the settings say."""
    _overrides[key] = backend
    try:
        yield
    finally:
        del _overrides[key]


def _get(path: str, key: str, own: dict[str, Any], method: str) -> Any:
    if (path, key) not in _backends:
        _backends[path, key] = _make(path, own, method)
    return _backends[path, key]


def _make(path: str, own: dict[str, Any], method: str) -> Any:
    try:
        backend_class = import_string(path)
    except ImportError as error:
        raise BadBackend(
            f"The backend {path!r} cannot be imported ({error}). Set MASSMIGRATION_BACKEND to the dotted path of a "
            "backend class, and install its package."
        ) from error
    if not isinstance(backend_class, type) or not {"run_simple", "run_mapper", method} & {*dir(backend_class)}:
        raise BadBackend(f"{path!r} is not a backend class. Set MASSMIGRATION_BACKEND to one.")
    if not _carries_jobs(backend_class):
        return backend_class()
    queue = {"queue": settings.TASK_QUEUE} if settings.TASK_QUEUE else {}
    return backend_class(**{**queue, **settings.BACKEND_OPTIONS, **own})


def _carries_jobs(backend: object) -> bool:
    """Whether it is a `BaseBackend`, or such a class; by its methods, for that module imports this one."""
    return hasattr(backend, "enqueue") and hasattr(backend, "perform")


@receiver(setting_changed)
def forget_backends(*, setting: str, **kwargs: object) -> None:
    """Make them again after a change of the settings, as in tests."""
    if setting.startswith(("MASSMIGRATION_", "CELERY_", "RQ_")):
        _backends.clear()
