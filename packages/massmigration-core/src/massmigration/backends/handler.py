"""A registry of backends: the backend of the settings, of a migration, or of a job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from massmigration.backends.base import BaseBackend
from massmigration.backends.sender import JobSender
from massmigration.conf import settings
from massmigration.definitions.base import BaseMigration
from massmigration.exceptions import BadBackend, BadMigrationFile, MigrationNotFound
from massmigration.loader import store

_backends: dict[tuple[str, str], Any] = {}
_overrides: dict[str, BaseBackend] = {}

DEFAULT_METHOD = "run_mapper"


def get_backend(path: str | None = None) -> Any:
    """Return the backend at a dotted path, by default that of the settings. Raise `BadBackend` if it cannot be made.

    It is a `BaseBackend`, or a custom backend without jobs, such as a `BackendBase`.
    """
    return _get(path or settings.BACKEND, "", {}, "")


def import_backend() -> None:
    """Import the module of the settings' backend. Ignore errors; a system check reports them."""
    with contextlib.suppress(Exception):  # here, an error would be a traceback during Django's setup
        import_string(settings.BACKEND)


def backend_of(migration: BaseMigration) -> Any:
    """Return the backend of a migration, with the migration's own queue and parameters."""
    if migration.key in _overrides:
        return _overrides[migration.key]
    own: dict[str, Any] = {**({"queue": migration.queue_name} if migration.queue_name else {})}
    own |= migration.get_backend_params()
    return _get(migration.backend_str, migration.key if own else "", own, method_of(migration))


def method_of(migration: BaseMigration) -> str:
    """Return the name of the backend's method that receives the migration."""
    name: Any = migration.backend_method  # the templates of django-mass-migration set NotImplemented if it is unused
    return name if isinstance(name, str) and name else DEFAULT_METHOD


def backend_of_job(key: str, path: str) -> BaseBackend:
    """Return the migration's own backend, or the one at `path`, through which its jobs have been sent so far.

    Raise `BadBackend` if neither transports jobs.
    """
    try:
        own = backend_of(store.get(key))
    except (MigrationNotFound, BadMigrationFile):
        own = None
    found = own if isinstance(own, BaseBackend) else get_backend(path or None)
    if not isinstance(found, BaseBackend):
        raise BadBackend(
            f"The backend {type(found).__qualname__} runs migrations by itself and cannot continue the jobs of "
            f"{key!r}. Set MASSMIGRATION_BACKEND, or the migration's backend, back to the one it was launched with."
        )
    return found


def sender_of_job(key: str, path: str) -> JobSender:
    """Return a sender for `backend_of_job(key, path)`."""
    return JobSender(backend_of_job(key, path))


@contextlib.contextmanager
def overriding(key: str, backend: BaseBackend) -> Iterator[None]:
    """Send this process' jobs of one migration through `backend`, whatever the settings say."""
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
    if not issubclass(backend_class, BaseBackend):
        return backend_class()
    queue = {"queue": settings.TASK_QUEUE} if settings.TASK_QUEUE else {}
    return backend_class(**{**queue, **settings.BACKEND_OPTIONS, **own})


@receiver(setting_changed)
def forget_backends(*, setting: str, **kwargs: object) -> None:
    """Forget the backends that were made, after a change of settings in tests."""
    own = {prefix for backend in _backends.values() for prefix in getattr(backend, "setting_prefixes", ())}
    if setting.startswith(("MASSMIGRATION_", *own)):
        _backends.clear()


def launch(migration: BaseMigration, db_alias: str) -> None:
    """Call the backend's method that the migration names."""
    migration.check_db_alias(db_alias)
    migration.check_dependencies(db_alias)
    backend = backend_of(migration)
    name = method_of(migration)
    method = getattr(backend, name, None)
    if not callable(method):
        raise BadBackend(
            f"The backend {type(backend).__qualname__} has no method {name!r}, which migration {migration.key!r} "
            "names as its backend_method. Name the backend that has it in the migration's attribute backend."
        )
    method(migration, db_alias)


def connect() -> None:
    """Connect definitions and backends. Import the backend, so that workers know the queue's tasks from the start."""
    BaseBackend._make_sender = JobSender
    BaseMigration.launch_through_engine = staticmethod(launch)
    BaseMigration.find_backend = staticmethod(backend_of)
    import_backend()
