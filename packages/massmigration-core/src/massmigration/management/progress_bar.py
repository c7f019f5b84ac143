"""A progress bar: one line, redrawn on a terminal; elsewhere a new line every few seconds."""

from __future__ import annotations

import os
import time
from typing import TextIO

from massmigration.progress import Progress, Speed, rows
from massmigration.states import Status
from massmigration.text import duration, number

PLAIN_INTERVAL = 5.0
"""Seconds between two lines that cannot be redrawn."""

LIVE_INTERVAL = 0.1
IDLE_TIME = 5.0
"""Seconds without a checkpoint after which the line says what it is waiting for."""

BAR_WIDTH = 20
FALLBACK_COLUMNS = 80


def render(progress: Progress, speed: Speed, columns: int) -> str:
    """Return the line, at most `columns` long."""
    name = progress.key if progress.stage == 0 else f"{progress.key} stage {progress.stage + 1}"
    fraction = progress.fraction
    if fraction is None or progress.is_once:
        text = ", ".join([progress.status.value, *rows(progress), *_waiting(progress)])
        return f"{name} {text}"[:columns]
    facts = [*rows(progress), *_speeds(progress, speed), *_waiting(progress)]
    text = f"{int(fraction * 1000) / 10:.1f}% {', '.join(facts)}"
    line = f"{name} [{'#' * int(fraction * BAR_WIDTH):.<{BAR_WIDTH}}] {text}"
    return line if len(line) <= columns else f"{name} {text}"[:columns]


def _speeds(progress: Progress, speed: Speed) -> list[str]:
    if not progress.is_active:
        return []
    left = speed.seconds_left(progress)
    facts = [] if speed.recent is None else [f"{number(speed.recent)} rows/s"]
    return facts if left is None else [*facts, f"{duration(left)} left"]


def _waiting(progress: Progress) -> list[str]:
    """Return what the migration waits for: a throttle, or workers that may be dead or in a long batch."""
    if progress.stall or progress.throttle:
        return [*filter(None, [progress.stall, progress.throttle])]
    if (
        progress.status is not Status.RUNNING
        or progress.is_once
        or progress.idle_for is None
        or progress.lease_left is None
    ):
        return []
    idle_for = progress.idle_for.total_seconds()
    if idle_for < IDLE_TIME:
        return []
    left = duration(progress.lease_left.total_seconds())
    return [f"waiting for workers that were last seen {duration(idle_for)} ago; the first lease expires in {left}"]


class ProgressBar:
    """A progress bar that writes to a stream, at most every 0.1 seconds."""

    def __init__(self, stream: TextIO, *, is_quiet: bool = False) -> None:
        self._stream = stream
        self._is_quiet = is_quiet
        self._is_live = stream.isatty()
        self._interval = LIVE_INTERVAL if self._is_live else PLAIN_INTERVAL
        self._speed = Speed()
        self._drawn = 0
        self._next = 0.0

    def begin(self) -> None:
        """Start with another migration. If lines cannot be redrawn, a migration that ends soon gets none."""
        self._speed = Speed()
        self._next = 0.0 if self._is_live else time.monotonic() + self._interval

    def show(self, progress: Progress, *, is_last: bool = False) -> None:
        """Draw the progress if the interval has passed, or on a terminal if it is the last of the migration."""
        now = time.monotonic()
        self._speed.add(progress, now)
        if self._is_quiet or (now < self._next and not (is_last and self._is_live)):
            return
        self._next = now + self._interval
        if not self._is_live:
            self._write(render(progress, self._speed, 1000) + "\n")
            return
        # The result of a stage that is done once follows in a line of its own.
        line = "" if is_last and progress.is_once else render(progress, self._speed, self._columns() - 1)
        self._write("\r" + line.ljust(self._drawn))
        self._drawn = len(line)
        if not line:
            self._write("\r")
        elif is_last:
            self._end_line()

    def note(self, text: str) -> None:
        """Write a separate line."""
        if not self._is_quiet:
            self._end_line()
            self._write(f"{text}\n")

    def _end_line(self) -> None:
        if self._drawn:
            self._drawn = 0
            self._write("\n")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or FALLBACK_COLUMNS
        except (OSError, ValueError):  # no terminal, or a stream without a file
            return FALLBACK_COLUMNS

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
