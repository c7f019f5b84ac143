"""Signals for metrics, chat messages and the like. They follow the commit of what they tell of.

Each is sent with `key` and `db_alias`. A receiver that raises is logged, and disturbs nothing. `migration_progressed`
comes at most once a second from each worker, with `processed`, its objects since the last time; `migration_failed`
comes with `error`, one line; `migration_launched` and `migration_paused` with `actor`.
"""

from __future__ import annotations

import logging
from typing import Any

from django.dispatch import Signal

logger = logging.getLogger(__name__)

migration_launched = Signal()
migration_started = Signal()
migration_progressed = Signal()
migration_paused = Signal()
migration_failed = Signal()
migration_applied = Signal()


def announce(signal: Signal, key: str, db_alias: str, **details: Any) -> None:
    """Send a signal to every receiver, whatever the others raise."""
    for receiver, answer in signal.send_robust(sender=None, key=key, db_alias=db_alias, **details):
        if isinstance(answer, Exception):
            logger.error("Receiver %r of a signal of migration %s raised.", receiver, key, exc_info=answer)
