"""The settings of massmigration, read at the moment of use. No other module reads Django's settings."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings as django_settings

PREFIX = "MASSMIGRATION_"

LEVELS = ("gentle", "steady", "full")
"""The levels of adaptive pace, from the slowest."""

DJANGAE_BACKEND = "massmigration.backends.djangae.DjangaeBackend"
"""The path of the Djangae backend, which is that of django-mass-migration."""


class BaseSettings:
    """Settings of one package. Each attribute in capitals is the default of the setting `prefix` + its name.

    A package subclasses it, registers the subclass with `register`, and reads its settings from an instance.
    """

    prefix: ClassVar[str] = PREFIX
    """The beginning of the settings' names, for example `MASSMIGRATION_CELERY_`."""

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the defaults by name, without the prefix."""
        return {name: value for name, value in vars(cls).items() if name.isupper()}

    @classmethod
    def problem_of(cls, name: str, value: Any) -> str | None:
        """Return what the value of a setting must be, for the system check; an empty string if the value is valid.

        None: it must have the type of the default. Numbers must be at least 1, and durations above zero.
        """
        return None

    def given(self) -> dict[str, Any]:
        """Return the project's settings, known or unknown, by their names without the prefix."""
        names = [name for name in dir(django_settings) if name.startswith(self.prefix) and name.isupper()]
        return {name.removeprefix(self.prefix): getattr(django_settings, name) for name in names}

    def __getattribute__(self, name: str) -> Any:
        default = super().__getattribute__(name)
        return getattr(django_settings, self.prefix + name, default) if name.isupper() else default


class Settings(BaseSettings):
    """The settings. Each attribute `X` is the default of the setting `MASSMIGRATION_X`."""

    BACKEND: str = "massmigration.backends.local.LocalBackend"
    """Dotted path of the backend that sends jobs to workers.

    If only `MASSMIGRATION_TASK_QUEUE` is set, the default is the backend of massmigration-djangae.
    """

    BACKEND_OPTIONS: dict[str, Any] = {}
    """Keyword arguments of the backend."""

    TASK_QUEUE: str | None = None
    """Name of the queue that jobs are sent to, unless the migration or the backend's options name one."""

    BATCH_SIZE: int = 100
    """Rows in the first batch of a shard; at most 10 with `operation_batch`. Later batches adapt."""

    MAX_BATCH_SIZE: int = 20_000
    """Maximum number of objects in a batch. All of them are in memory at once."""

    MAX_SET_SIZE: int = 50_000
    """Maximum number of rows in a batch of `operation_batch`."""

    BATCH_DURATION: dt.timedelta = dt.timedelta(milliseconds=400)
    """Target duration of a batch, and so of its row locks. Batch sizes adapt to it.

    A batch that calls `operation` ends when its time is up.
    """

    JOB_DURATION: dt.timedelta = dt.timedelta(seconds=15)
    """How long a job starts further batches before it sends a new job to continue."""

    LEASE: dt.timedelta = dt.timedelta(seconds=60)
    """How long a worker may take between two batches before another worker can claim its shard."""

    IDLE_LIMIT: dt.timedelta = dt.timedelta(minutes=10)
    """How long the transaction of a batch may be idle before the server ends it (PostgreSQL, MySQL and MariaDB)."""

    LOCK_WAIT: dt.timedelta = dt.timedelta(seconds=10)
    """How long retry and restart wait for batches that are still running."""

    MAX_STALLED_TRIES: int = 10
    """After how many consecutive rounds without progress the migration fails. A round is all tries of one job."""

    MAX_FAILURE_RATE: float | None = 0.5
    """Above which share of failed objects within a shard `on_error = "continue"` stops. None means never.

    It counts once the shard has processed 100 objects. A migration's `max_failure_rate` overrides it.
    """

    THROTTLE: Sequence[Any] = ()
    """Throttles of all migrations, as callables or dotted paths. A migration's `throttle` adds more."""

    PACE: str = "full"
    """How much migrations give way to the site: `gentle`, `steady`, or `full`, which means not at all."""

    SHARDS: int = 8
    """Approximate number of shards that a stage is split into. On SQLite, there is always one."""

    RECORD_CACHE_TIMEOUT: dt.timedelta | float | None = dt.timedelta(seconds=60)
    """How long a process caches that a migration is applied. A number is in seconds; None means no limit."""

    APPLY_ON_FRESH_DATABASE: bool = True
    """Whether `migrate` applies the migrations that have nothing to do because it has just created their tables."""

    def __getattribute__(self, name: str) -> Any:
        return _backend_path(type(self).BACKEND) if name == "BACKEND" else super().__getattribute__(name)


def _backend_path(default: str) -> Any:
    """Return the path of the backend. A project that only sets `TASK_QUEUE` keeps django-mass-migration's backend."""
    path = getattr(django_settings, PREFIX + "BACKEND", None)
    return path or (DJANGAE_BACKEND if getattr(django_settings, PREFIX + "TASK_QUEUE", None) else default)


settings = Settings()

_registered: list[type[BaseSettings]] = [Settings]


def register(cls: type[BaseSettings]) -> type[BaseSettings]:
    """Register the settings of another package, so that the system checks know them. Also a class decorator."""
    if cls not in _registered:
        _registered.append(cls)
    return cls


def registered() -> list[type[BaseSettings]]:
    """Return the registered classes of settings."""
    return list(_registered)


def is_running_tests() -> bool:
    """Return whether pytest or Django's test runner runs in this process, or in the one that started it for a test."""
    return _is_pytest() or _is_test_environment() or _is_test_command(sys.argv)


def _is_pytest() -> bool:
    # pytest sets both. Old versions set only the first, and only while a test runs.
    return "PYTEST_CURRENT_TEST" in os.environ or "PYTEST_VERSION" in os.environ


def _is_test_environment() -> bool:
    """Return whether `setup_test_environment()` has been called, as Django's test runners do in each process."""
    # Do not import the module: that would load the test client in production. If it is not imported, it was not called.
    utils = sys.modules.get("django.test.utils")
    return hasattr(getattr(utils, "_TestState", None), "saved_data")


def _is_test_command(argv: list[str]) -> bool:
    """Return whether this is `manage.py test`, also while apps are loaded and there is no test runner yet."""
    program = Path(argv[0]) if argv else Path()
    is_django = program.name in {"manage.py", "django-admin"} or program.parts[-2:] == ("django", "__main__.py")
    return is_django and argv[1:2] == ["test"]
