"""Turns the settings, and a migration's own wishes, into backends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadBackend, BadMigrationFile, MigrationNotFound
from massmigration.loader import store

if TYPE_CHECKING:
    from massmigration.backends.base import BaseBackend

_backends: dict[tuple[str, str], BaseBackend] = {}
_overrides: dict[str, BaseBackend] = {}


def get_backend(path: str | None = None) -> BaseBackend:
    """The backend of the settings, or the one at a dotted path. Raise `BadBackend` if it cannot be made."""
    return _get(path or settings.BACKEND, "", {})


def backend_of(migration: BaseMigration) -> BaseBackend:
    """The backend that carries a migration's jobs, with the migration's own queue and parameters."""
    if migration.key in _overrides:
        return _overrides[migration.key]
    own: dict[str, Any] = {**({"queue": migration.queue_name} if migration.queue_name else {})}
    own |= migration.backend_params or {}
    return _get(migration.backend or settings.BACKEND, migration.key if own else "", own)


def backend_of_job(key: str, path: str) -> BaseBackend:
    """The same by key; the backend at `path` when this process cannot load the migration."""
    try:
        return backend_of(store.get(key))
    except (MigrationNotFound, BadMigrationFile):
        return get_backend(path or None)


@contextlib.contextmanager
def overriding(key: str, backend: BaseBackend) -> Iterator[None]:
    """Let `backend` carry the jobs that this process sends for a migration, whatever the settings say."""
    _overrides[key] = backend
    try:
        yield
    finally:
        del _overrides[key]


def _get(path: str, key: str, own: dict[str, Any]) -> BaseBackend:
    if (path, key) not in _backends:
        _backends[path, key] = _make(path, {**settings.BACKEND_OPTIONS, **own})
    return _backends[path, key]


def _make(path: str, options: dict[str, Any]) -> BaseBackend:
    try:
        backend_class = import_string(path)
    except ImportError as error:
        raise BadBackend(
            f"The backend {path!r} cannot be imported ({error}). Set MASSMIGRATION_BACKEND to the dotted path of a "
            "backend class, and install its package."
        ) from error
    if not (isinstance(backend_class, type) and hasattr(backend_class, "run_mapper")):
        raise BadBackend(f"{path!r} is not a backend class. Set MASSMIGRATION_BACKEND to one.")
    backend: BaseBackend = backend_class(**options)
    return backend


@receiver(setting_changed)
def forget_backends(*, setting: str, **kwargs: object) -> None:
    """Make them again after a change of the settings, as in tests."""
    if setting.startswith(("MASSMIGRATION_", "CELERY_", "RQ_")):
        _backends.clear()
