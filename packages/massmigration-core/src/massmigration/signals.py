"""Signals for metrics, chat messages and the like. They are sent after the commit of the change.

Every signal has the arguments `key` and `db_alias`. An exception in a receiver is logged and has no other effect.

- `migration_launched`, `migration_paused`: `actor`.
- `migration_progressed`: `processed`, the objects since the last signal. Each worker sends it at most once a second.
- `migration_waiting`: `question`, what an operator must confirm.
- `migration_failed`: `error`, one line.
"""

from __future__ import annotations

from django.dispatch import Signal

migration_launched = Signal()
migration_started = Signal()
migration_progressed = Signal()
migration_waiting = Signal()
migration_paused = Signal()
migration_failed = Signal()
migration_applied = Signal()
