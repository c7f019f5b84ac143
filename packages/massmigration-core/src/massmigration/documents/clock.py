"""The time of a document database's server: no query can return it, but each answer contains it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import time
from typing import Any

from django.db import connections

logger = logging.getLogger(__name__)

MEASURED_EVERY = 60.0
"""Seconds after which the time is measured again."""

TRIES = 3
"""The maximum number of measurements. The most accurate one is used; an accurate one ends the series."""

EXACT = 0.2
"""The maximum duration of an accurate measurement, in seconds. The error is at most half of it."""

STEP = 1.0
"""Seconds by which this machine's two clocks may diverge before the time is measured again: one was set, or the
machine slept."""

MAX_SKEW = dt.timedelta(seconds=5)
"""The maximum error of this machine's clock before a warning is logged."""

KIND = "massmigration_clock"
"""The kind of an entity that is read and never exists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Measurement:
    """The server's time (None: not known) at one moment of this machine's clocks."""

    server: dt.datetime | None
    steady: float
    wall: float
    error: float = 0.0

    def is_fresh(self) -> bool:
        passed = time.monotonic() - self.steady
        return 0 <= passed < MEASURED_EVERY and abs(time.time() - self.wall - passed) < STEP

    def now(self) -> dt.datetime:
        if self.server is None:
            return dt.datetime.now(dt.timezone.utc)
        return self.server + dt.timedelta(seconds=time.monotonic() - self.steady)


_measurements: dict[str, _Measurement] = {}
_warned: set[str] = set()


def now(db_alias: str) -> dt.datetime:
    """Return the time of the database's server in UTC, or of this machine if the server's answers do not contain it."""
    found = _measurements.get(db_alias)
    if found is None or not found.is_fresh():
        found = _measurements[db_alias] = _measure(db_alias)
        _warn(db_alias, found)
    return found.now()


def forget() -> None:
    """Forget all measurements."""
    _measurements.clear()
    _warned.clear()


def _measure(db_alias: str) -> _Measurement:
    wrapper: Any = connections[db_alias]
    wrapper.ensure_connection()
    best: _Measurement | None = None
    for _ in range(TRIES):
        began = time.monotonic()
        with wrapper.wrap_database_errors:
            server = _time_of_answer(getattr(wrapper.connection, "_client", None))
        ended = time.monotonic()
        error = (ended - began) / 2
        if best is None or error < best.error:
            server = server and server + dt.timedelta(seconds=error)
            best = _Measurement(server=server, steady=ended, wall=time.time(), error=error)
        if server is None or ended - began <= EXACT:
            break
    assert best is not None
    return best


def _time_of_answer(client: Any) -> dt.datetime | None:
    """Return the time of an answer. Read outside of any transaction, which would return the time of its start."""
    if hasattr(client, "_datastore_api"):
        request = {"project_id": client.project, "keys": [client.key(KIND, 1).to_protobuf()]}
        if client.database:
            request["database_id"] = client.database
        found = client._datastore_api.lookup(request=request).read_time
    elif hasattr(client, "_firestore_api"):
        request = {
            "database": client._database_string,
            "documents": [f"{client._database_string}/documents/{KIND}/1"],
        }
        answers = client._firestore_api.batch_get_documents(request=request, metadata=client._rpc_metadata)
        found = max((answer.read_time for answer in answers if answer.read_time), default=None)
    else:
        return None
    return dt.datetime.fromtimestamp(found.timestamp(), dt.timezone.utc) if found and found.timestamp() else None


def _warn(db_alias: str, found: _Measurement) -> None:
    """Log once if this machine's clock is wrong, or if leases depend on it."""
    if db_alias in _warned:
        return
    if found.server is None:
        _warned.add(db_alias)
        logger.warning(
            "Answers of database %r do not contain the time, so leases depend on this machine's clock. Keep the clocks "
            "of all machines synchronized.",
            db_alias,
        )
        return
    ahead = dt.datetime.fromtimestamp(found.wall, dt.timezone.utc) - found.server
    if abs(ahead) > MAX_SKEW:
        _warned.add(db_alias)
        logger.warning(
            "The clock of this machine is %.1f seconds %s the clock of database %r. Leases use the database's clock, "
            "but log lines and the order of events do not. Set this machine's clock.",
            abs(ahead.total_seconds()),
            "ahead of" if ahead > dt.timedelta(0) else "behind",
            db_alias,
        )
