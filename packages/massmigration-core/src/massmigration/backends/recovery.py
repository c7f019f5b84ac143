"""A thread that runs recovery beside a worker's jobs, for adapters."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from django.db import connections

PAUSE = 1.0
"""Seconds between two checks whether a lease has passed."""

FORK_WAIT = 0.5
"""Seconds that a fork waits for a round to end. A longer round waits for the network and holds no lock."""

EXIT_WAIT = 2.0
"""Seconds that a worker waits at its end for a round to end."""


class RecoveryThread:
    """A thread in the main process of a worker. It depends neither on the worker's event loop nor on its broker.

    A pool may fork the process at any time. A fork waits for the round to end, so that the child inherits no open
    connection and no lock that is held. The thread has its own connections, outside of Django's pools.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        """Take `massmigration.worker.recover_if_due`, which closes the connections after each round."""
        self._call = call
        self._watches_forks = False
        self._fork = threading.local()
        self._reset()

    def _reset(self) -> None:
        """Start over in a forked process, which has no threads of its parent."""
        self._round = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run recovery at once, and then once a lease."""
        if self._thread and self._thread.is_alive() and not self._is_stopping.is_set():
            return
        if not self._watches_forks and hasattr(os, "register_at_fork"):
            self._watches_forks = True
            os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._reset)
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(self._is_stopping,), name="massmigration-recovery", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Start no more rounds."""
        self._is_stopping.set()

    def join(self) -> None:
        """Stop, and wait for the current round to end, for a short time only: a database may not answer."""
        self.stop()
        if self._thread:
            self._thread.join(EXIT_WAIT)

    def _work(self, is_stopping: threading.Event) -> None:
        _disable_connection_pools()
        while not is_stopping.is_set():
            with self._round:
                self._call()
            is_stopping.wait(PAUSE)

    def _before_fork(self) -> None:
        self._fork.has_round = self._round.acquire(timeout=FORK_WAIT)

    def _after_fork(self) -> None:
        if self._fork.has_round:
            self._round.release()


def _disable_connection_pools() -> None:
    """Give this thread connections outside Django's pools: a pool stays open, and a forked process would inherit it."""
    for alias in connections:
        settings = connections[alias].settings_dict
        options = {name: value for name, value in settings.get("OPTIONS", {}).items() if name != "pool"}
        connections[alias].settings_dict = {**settings, "OPTIONS": options}
