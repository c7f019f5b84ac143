"""Short and repeated requests for the lock of a whole table.

While a statement waits for that lock, everybody who comes later waits behind it. So no try waits for long, and between
the tries the others pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from django.db import DatabaseError

from massmigration.dialects.errors import is_transient
from massmigration_schema.exceptions import LockNotGranted

Answer = TypeVar("Answer")

QUICK_TRIES = 20
QUICK_PAUSE = 0.05
PAUSE = 1.25
"""Seconds between two tries."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A session whose open transaction uses the table."""

    session: int
    user: str
    age: dt.timedelta
    statement: str

    def __str__(self) -> str:
        seconds = self.age.total_seconds()
        return f"session {self.session} of {self.user or 'an unknown user'}, open for {seconds:.1f} s: {self.statement}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LockLimits:
    """Limits of the requests for the lock of a whole table."""

    patience: dt.timedelta = dt.timedelta(seconds=60)
    """How long it is requested again and again."""

    max_stall: dt.timedelta = dt.timedelta(seconds=1)
    """How long one request waits at most."""


class TableLock(Protocol):
    """The lock of a whole table, as each database implements it."""

    has_quick_tries: bool
    """Whether a try can give up without waiting: others would wait behind it."""

    def attempt(self, call: Callable[[], Answer], *, is_quick: bool, max_stall: dt.timedelta) -> Answer:
        """Call something that needs the table's lock. Raise a transient error if the lock is not granted in time."""

    def definition_lock(self, tag: str) -> contextlib.AbstractContextManager[bool]:
        """Take the lock of a change's definitions for this session, and yield whether it was taken."""

    def server_id(self) -> str:
        """Return what identifies the server and the database."""

    def blockers(self, table: str) -> list[Blocker]:
        """Return the sessions that have used the table for a while, as far as the user may see them."""


def patiently(
    lock: TableLock,
    table: str,
    call: Callable[[], Answer],
    limits: LockLimits,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """Call something that needs the lock of the whole table until the lock is granted. Raise `LockNotGranted`.

    The first tries practically do not wait, where the database can do that. The others wait for `limits.max_stall` at
    most, and are not made at all while a transaction is open that they would most likely wait for.
    """
    until = time.monotonic() + limits.patience.total_seconds()
    tries = 0
    while True:
        is_quick = lock.has_quick_tries and tries < QUICK_TRIES
        tries += 1
        if is_quick or not lock.blockers(table):
            try:
                return lock.attempt(call, is_quick=is_quick, max_stall=limits.max_stall)
            except DatabaseError as error:
                if not is_transient(error):
                    raise
        if time.monotonic() >= until:
            break
        sleep(QUICK_PAUSE if is_quick else PAUSE)
    found = "; ".join(map(str, lock.blockers(table))) or "unknown"
    raise LockNotGranted(
        "online.lock",
        f"Table {table!r}: its lock was not granted in {tries} tries within {limits.patience.total_seconds():g} s. In "
        f"its way: {found}. Nothing was changed by this step. End these transactions, or try again later.",
    )
