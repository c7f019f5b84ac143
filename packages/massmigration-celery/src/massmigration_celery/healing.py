"""Sends what is stuck again, from a thread beside a worker's jobs."""

from __future__ import annotations

import logging
import os
import threading

from django.db import connections

from massmigration import worker

logger = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds between two looks whether a lease has passed."""

FORK_WAIT = 0.5
"""Seconds that a fork waits for a round to end. A longer round waits for a network, with no lock in its hands."""

EXIT_WAIT = 2.0
"""Seconds that a worker which ends waits for a round to end."""


class Healer:
    """A thread of a worker's main process: neither its loop nor its broker's connection has a part in it.

    A pool may fork the process at any time. A fork waits for the round to end, so that the child inherits no open
    connection and no lock that is held. Connections are the thread's own, and closed after each round.
    """

    def __init__(self) -> None:
        self._watches_forks = False
        self._fork = threading.local()
        self._begin()

    def _begin(self) -> None:
        """A fork takes no threads along."""
        self._round = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Heal at once, and then once a lease."""
        if self._thread and self._thread.is_alive() and not self._is_stopping.is_set():
            return
        if not self._watches_forks and hasattr(os, "register_at_fork"):
            self._watches_forks = True
            os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._begin)
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(self._is_stopping,), name="massmigration-healing", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Begin no more rounds."""
        self._is_stopping.set()

    def join(self) -> None:
        """Stop, and wait for the end of the round, but not for long: a database may not answer."""
        self.stop()
        if self._thread:
            self._thread.join(EXIT_WAIT)

    def _work(self, is_stopping: threading.Event) -> None:
        _use_no_pool()
        while not is_stopping.is_set():
            with self._round:
                _heal()
            is_stopping.wait(PAUSE)

    def _before_fork(self) -> None:
        self._fork.has_round = self._round.acquire(timeout=FORK_WAIT)

    def _after_fork(self) -> None:
        if self._fork.has_round:
            self._round.release()


def _use_no_pool() -> None:
    """Have this thread's connections be its own where Django pools them: a pool stays open, and forks inherit it."""
    for alias in connections:
        settings = connections[alias].settings_dict
        options = {name: value for name, value in settings.get("OPTIONS", {}).items() if name != "pool"}
        connections[alias].settings_dict = {**settings, "OPTIONS": options}


def _heal() -> None:
    try:
        try:
            worker.recover(at_most_once_a_lease=True)
        finally:
            connections.close_all()
    except Exception:
        logger.exception("What is stuck could not be sent again; it is tried again later.")


healer = Healer()
