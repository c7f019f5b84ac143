"""The only module that reads Django's settings, at the moment of use."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from django.conf import settings as django_settings

PREFIX = "MASSMIGRATION_"

DJANGAE_BACKEND = "massmigration.backends.djangae.DjangaeBackend"
"""Its name since django-mass-migration."""


class Settings:
    """Each attribute `X` is the default of the setting `MASSMIGRATION_X`."""

    BACKEND: str = "massmigration.backends.local.LocalBackend"
    """Dotted path of the backend that carries jobs to workers.

    With `MASSMIGRATION_TASK_QUEUE` set and this not, it is that of the package massmigration-djangae.
    """

    BACKEND_OPTIONS: dict[str, Any] = {}
    """Keyword arguments for the backend."""

    TASK_QUEUE: str | None = None
    """The queue that jobs go to, where neither the migration nor the backend's options name one."""

    BATCH_SIZE: int = 500
    """Rows in a shard's first batch; later batches adapt."""

    MAX_BATCH_SIZE: int = 20_000
    """No batch of objects grows beyond this. A batch is in memory as a whole."""

    MAX_SET_SIZE: int = 50_000
    """No batch of a set-based operation grows beyond this."""

    BATCH_DURATION: dt.timedelta = dt.timedelta(milliseconds=400)
    """How long a batch, and so its row locks, should last. Batch sizes adapt to it."""

    JOB_DURATION: dt.timedelta = dt.timedelta(seconds=15)
    """How long a job goes on with further batches before it hands over to a continuation."""

    LEASE: dt.timedelta = dt.timedelta(seconds=60)
    """How long a worker may be silent between two batches before others take its shard."""

    IDLE_LIMIT: dt.timedelta = dt.timedelta(minutes=10)
    """How long a transaction may sit idle before the server ends it (PostgreSQL, MariaDB)."""

    LOCK_WAIT: dt.timedelta = dt.timedelta(seconds=10)
    """How long retry and restart wait for the batches in flight."""

    THROTTLE: Sequence[Any] = ()
    """Callables, or dotted paths of such, that every migration's `throttle` is lengthened by."""

    SHARDS: int = 8
    """Into how many shards a stage is cut, about. SQLite always gets one."""

    RECORD_CACHE_TIMEOUT: dt.timedelta | float = dt.timedelta(seconds=60)
    """How long a process remembers that a migration is applied; a number is in seconds."""

    APPLY_ON_FRESH_DATABASE: bool = True
    """Whether a `migrate` that has made tables itself applies the migrations that have nothing to do there."""

    def given(self) -> dict[str, Any]:
        """The settings that the project itself gives, known or not, by their names without `MASSMIGRATION_`."""
        names = [name for name in dir(django_settings) if name.startswith(PREFIX) and name.isupper()]
        return {name.removeprefix(PREFIX): getattr(django_settings, name) for name in names}

    def __getattribute__(self, name: str) -> Any:
        if not name.isupper():
            return super().__getattribute__(name)
        if name == "BACKEND":
            return _backend_path(super().__getattribute__(name))
        return getattr(django_settings, PREFIX + name, super().__getattribute__(name))


def _backend_path(default: str) -> Any:
    """A project that has only named a queue had the backend which was the only one; it must not change unasked."""
    path = getattr(django_settings, PREFIX + "BACKEND", None)
    return path or (DJANGAE_BACKEND if getattr(django_settings, PREFIX + "TASK_QUEUE", None) else default)


settings = Settings()
