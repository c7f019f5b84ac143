"""Rounds of recovery, in which a test decides what happens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from testsupport.threads import PATIENCE
from testsupport.worker_processes import wait_until


class RecoveryRounds:
    """The rounds that there were, and what each does."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.did: list[Callable[[], Any]] = []
        self.answer = threading.Event()

    def recover(self, *, at_most_once_a_lease: bool) -> None:
        assert at_most_once_a_lease
        self.threads.append(threading.current_thread())
        for each in self.did:
            each()

    def block(self) -> None:
        """Let rounds wait for the event `answer`."""
        self.did.append(lambda: self.answer.wait(PATIENCE))

    def first(self) -> threading.Thread:
        """Wait for a round, and return its thread."""
        thread: threading.Thread = wait_until(lambda: self.threads)[0]
        return thread

    def go_on(self) -> bool:
        """Wait for further rounds."""
        count = len(self.threads)
        return bool(wait_until(lambda: len(self.threads) > count + 2))

    def end(self) -> None:
        """Let the present round and all others end at once."""
        self.did.clear()
        self.answer.set()
