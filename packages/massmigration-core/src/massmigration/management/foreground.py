"""Works at one migration in the threads of this process."""

from __future__ import annotations

import contextlib
import time

from massmigration import api
from massmigration.backends import handler, healing
from massmigration.backends.immediate import ImmediateBackend
from massmigration.backends.local import LocalBackend, pool
from massmigration.definitions.base import BaseMigration
from massmigration.progress import Reading

FINISH_WAIT = 5.0


def ends_with_process(migration: BaseMigration) -> bool:
    """Whether the jobs of the migration's backend end with the process that sends them."""
    return isinstance(handler.backend_of(migration), (LocalBackend, ImmediateBackend))


def in_this_process(migration: BaseMigration) -> contextlib.AbstractContextManager[None]:
    """Let the migration's jobs run in the threads of this process, whatever its backend."""
    if isinstance(handler.backend_of(migration), LocalBackend):
        return contextlib.nullcontext()
    return handler.overriding(migration.key, LocalBackend())


class Foreground:
    """Keeps this process at work on a migration that others may be working at too."""

    def __init__(self, key: str, db_alias: str) -> None:
        self._key = key
        self._db_alias = db_alias
        self._joined: tuple[str, int] | None = None
        self._is_quiet = False
        pool.resume()

    def keep_working(self, reading: Reading) -> None:
        """Join in each attempt and stage, and heal now and then, so that shards of killed workers are taken over."""
        present = (reading.attempt_id, reading.stage)
        if present != self._joined and pool.wait_until_quiet(0):
            api.send(self._key, self._db_alias)
            self._joined = present
        healing.heal_now_and_then(self._db_alias)

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than there is work in this process."""
        if self._is_quiet:
            time.sleep(seconds)
        self._is_quiet = pool.wait_until_quiet(0 if self._is_quiet else seconds)

    def finish(self) -> None:
        """Let the last batches end, of a migration that is over."""
        pool.wait_until_quiet(FINISH_WAIT)

    def stop(self, seconds: float = 0) -> bool:
        """Ask the threads to stop at the next batch boundary. Return whether they have within `seconds`."""
        return pool.stop(seconds)
